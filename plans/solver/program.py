"""The best choice among options whose costs and losses add up: a mixed-integer linear program, solved by HiGHS.

Every site of every block is covered by exactly one option: it alone at some rank or dense, it and its branch together
(all but removed, dropped, or an MLP of some width), or a fold that does away with its block. Minimise the summed loss,
the summed cost at most `limit`. Knows no tensors and no graphs; that losses add up is the caller's assumption.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from foldrank.edits.base import Branch
from foldrank.plans.solver.layout import Roles

GAP = 5e-4
"""Relative gap to the best bound at which the solver stops, where nothing else is said."""

SCALE = 1000.0
"""What the budget is scaled to, so that a site's cost is far above the solver's tolerance."""

NODES = 5_000
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


def choose(
    options: Sequence[Option], limit: float, spare: int = 0, alike: Sequence[Sequence[Cell]] = (), gap: float = GAP
) -> tuple[Option, ...] | None:
    """The options with the least summed loss that cover every cell once within the limit; None where none do.

    `spare`: blocks that may lose their attention, folds that do away with one counted. A block loses one branch at
    most. `alike`: cells that are stored in the same bits, since an exporter may hold them as one weight.
    """
    cells = {cell: row for row, cell in enumerate(sorted({cell for option in options for cell in option.cells}))}
    cover = [(cells[cell], column) for column, option in enumerate(options) for cell in option.cells]
    joined = [(position, column) for column, option in enumerate(options) for position in option.fold]
    dropped = [(option.cells[0][0], column) for column, option in enumerate(options) if option.dropped is not None]
    constraints = [
        LinearConstraint(_incidence(cover, len(options)), 1, 1),
        LinearConstraint(np.array([[option.cost for option in options]]) * (SCALE / limit), -np.inf, SCALE),
    ]
    if bound := [*_alike(options, alike)]:
        rows = [(row, column, sign) for row, entries in enumerate(bound) for column, sign in entries]
        row, column, sign = np.array(rows).T
        matrix = csr_array((sign.astype(float), (row, column)), shape=(len(bound), len(options)))
        constraints.append(LinearConstraint(matrix, 0, 0))
    if joined:
        constraints.append(LinearConstraint(_incidence(joined, len(options)), -np.inf, 1))
    if dropped:
        gone = [float(bool(option.fold) or option.dropped == "attention") for option in options]
        constraints += [LinearConstraint(_incidence(dropped, len(options)), -np.inf, 1),
                        LinearConstraint(np.array([gone]), -np.inf, spare)]
    found = milp(
        [option.nats for option in options], integrality=np.ones(len(options)), bounds=Bounds(0, 1),
        constraints=constraints, options={"mip_rel_gap": gap, "node_limit": NODES},
    )
    if found.x is None:
        return None
    return tuple(option for option, chosen in zip(options, found.x, strict=True) if chosen > 0.5)


def _alike(options: Sequence[Option], alike: Sequence[Sequence[Cell]]) -> Iterator[list[tuple[int, int]]]:
    """Columns with their signs, whose sums are to be 0: what stores one cell in some bits stores its neighbour so."""
    covering: dict[Cell, list[int]] = {}
    for column, option in enumerate(options):
        for cell in option.cells:
            covering.setdefault(cell, []).append(column)
    known = sorted({option.bits for option in options if option.bits is not None})
    for one, other in (pair for cells in alike for pair in pairwise(cells)):
        for bits in known:
            signs = [(one, 1), (other, -1)]
            entries = [(column, sign) for cell, sign in signs for column in covering.get(cell, ())
                       if options[column].bits == bits]
            if entries:
                yield entries


def _incidence(entries: Sequence[tuple[int, int]], columns: int) -> csr_array:
    row, column = np.array(entries).T
    return csr_array((np.ones(len(entries)), (row, column)), shape=(int(row.max()) + 1, columns))
