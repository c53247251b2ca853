"""The best choice among options whose costs and losses add up: a mixed-integer linear program, solved by HiGHS.

Every site of every block is covered by exactly one option: it alone at some rank or dense, it and its branch together
(all but removed, dropped, or an MLP of some width), or a fold that does away with its block. Minimise the summed loss,
the summed cost at most `limit`. Knows no tensors and no graphs; that losses add up is the caller's assumption.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from foldrank.edits.base import Branch
from foldrank.plans.solver.layout import Roles

GAP = 1e-4
"""Relative gap to the best bound at which the solver stops."""

NODES = 20_000
"""Most nodes of its tree: a bound that gives the same answer on every machine, as a time limit does not."""

Cell = tuple[int, Roles]
"""A site: position of its block, and its roles."""


@dataclass(frozen=True)
class Option:
    """What may become of some sites. `nats`: loss against the present model; `fold`: positions that it joins, or ();
    `width`: channels that an MLP keeps; `dropped`: the branch that leaves; `bits`: that the sites are stored in."""

    cells: tuple[Cell, ...]
    cost: float
    nats: float
    ranks: tuple[int | None, ...] = ()
    fold: tuple[int, ...] = ()
    source: int = -1
    """Position of the block whose weights a fold keeps."""
    width: int | None = None
    dropped: Branch | None = None
    bits: int | None = None


def choose(options: Sequence[Option], limit: float, spare: int = 0) -> tuple[Option, ...] | None:
    """The options with the least summed loss that cover every cell once within the limit; None where none do.

    `spare`: blocks that may lose their attention, folds that do away with one counted. A block loses one branch at
    most.
    """
    cells = {cell: row for row, cell in enumerate(sorted({cell for option in options for cell in option.cells}))}
    cover = [(cells[cell], column) for column, option in enumerate(options) for cell in option.cells]
    joined = [(position, column) for column, option in enumerate(options) for position in option.fold]
    dropped = [(option.cells[0][0], column) for column, option in enumerate(options) if option.dropped is not None]
    constraints = [
        LinearConstraint(_incidence(cover, len(options)), 1, 1),
        LinearConstraint(np.array([[option.cost for option in options]]) / limit, -np.inf, 1),
    ]
    if joined:
        constraints.append(LinearConstraint(_incidence(joined, len(options)), -np.inf, 1))
    if dropped:
        gone = [float(bool(option.fold) or option.dropped == "attention") for option in options]
        constraints += [LinearConstraint(_incidence(dropped, len(options)), -np.inf, 1),
                        LinearConstraint(np.array([gone]), -np.inf, spare)]
    found = milp(
        [option.nats for option in options], integrality=np.ones(len(options)), bounds=Bounds(0, 1),
        constraints=constraints, options={"mip_rel_gap": GAP, "node_limit": NODES},
    )
    if found.x is None:
        return None
    return tuple(option for option, chosen in zip(options, found.x, strict=True) if chosen > 0.5)


def _incidence(entries: Sequence[tuple[int, int]], columns: int) -> csr_array:
    row, column = np.array(entries).T
    return csr_array((np.ones(len(entries)), (row, column)), shape=(int(row.max()) + 1, columns))
