"""What a block's linears are given, batch by batch, and the sums over it that rounding needs.

A block is run as far as the linear that is asked for, and what is settled below it is not computed again. Axes: N
windows, T tokens, I inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from foldrank.edits.base import BRANCHES
from foldrank.plans.bits.tokens import Attended, Watch, weights
from foldrank.plans.low_rank.grams import cross_gram, input_of, watched
from foldrank.plans.models.block import Block, Seen, watch_inputs
from foldrank.plans.models.decoder import BATCH_TOKENS, Decoder


class Stages:
    """One block over one text, linear by linear in the order in which they are applied: the weights of what was passed
    do not change any more, so results of modules that are settled are kept and given back.

        inputs of q | q k v run, kept | inputs of o | attention run whole, kept | inputs of gate | gate up kept | down
    """

    def __init__(self, decoder: Decoder, hidden_NTC: Tensor) -> None:
        self._decoder = decoder
        self._parts = hidden_NTC.split(max(1, BATCH_TOKENS // hidden_NTC.shape[1]))
        self._kept: dict[nn.Module, list[Any]] = {}
        self._settled: list[nn.Module] = []
        self._within: dict[nn.Module, set[nn.Module]] = {}

    def inputs(self, block: Block, role: str) -> Iterator[Tensor]:
        """What the role's linear is given [tokens, I], a batch of windows at a time."""
        found: list[Tensor] = []

        def note(_role: str, inputs: Tensor) -> None:
            found.append(inputs.flatten(0, -2))
            raise Seen

        self._let_go()
        for number in range(len(self._parts)):
            with suppress(Seen), watch_inputs(block, note, (role,)):
                self._run(block, number)
            yield found.pop()
        self._settle(block, role)

    def weights(self, block: Block) -> Iterator[Tensor]:
        """How much each token counts [tokens] by what the block attends to, a batch of windows at a time; alike where
        its attention is dropped."""
        for part in self._parts:
            if "attention" in block.dropped:
                yield part.new_ones(part.shape[:2]).flatten()
                continue
            with torch.no_grad(), suppress(Attended), Watch() as seen:
                self._decoder.run(block, part)
            yield weights(seen.received).flatten()

    def output(self, block: Block) -> Tensor:
        """What the block gives [N, T, C]."""
        return torch.cat([self._run(block, number) for number in range(len(self._parts))])

    def _run(self, block: Block, number: int) -> Tensor:
        with torch.no_grad(), ExitStack() as stack:
            for module in self._settled:
                kept = self._kept.setdefault(module, [])
                if len(kept) > number:
                    stack.enter_context(_giving(module, kept[number]))
                elif len(kept) == number:
                    stack.enter_context(_kept_by(module, kept.append))
            return self._decoder.run(block, self._parts[number])

    def _settle(self, block: Block, role: str) -> None:
        """After the role and those that read the same input are rounded they are settled; a whole attention is once its
        last linear is."""
        together = [other for other in block.roles if input_of(block, other) == role]
        if role == "o" and (path := block.family.path("o").rpartition(".")[0]):
            whole = block.module.get_submodule(path)
            self._within[whole] = {block.linear(other) for other in BRANCHES["attention"] if other in block.roles}
            self._settled.append(whole)
        else:
            self._settled += dict.fromkeys(block.linear(other) for other in together)

    def _let_go(self) -> None:
        """What is within a module whose results are all kept is not run any more."""
        for whole, inner in self._within.items():
            if len(self._kept.get(whole, ())) == len(self._parts):
                self._settled = [module for module in self._settled if module not in inner]
                self._kept = {module: kept for module, kept in self._kept.items() if module not in inner}


@contextmanager
def _giving(module: nn.Module, result: Any) -> Iterator[None]:
    """The module gives this, whatever it is given."""
    setattr(module, "forward", lambda *_args, **_named: result)  # noqa: B010
    try:
        yield
    finally:
        delattr(module, "forward")


@contextmanager
def _kept_by(module: nn.Module, keep: Callable[[Any], None]) -> Iterator[None]:
    """What the module gives is kept."""
    handle = module.register_forward_hook(lambda _module, _inputs, result: keep(result))
    try:
        yield
    finally:
        handle.remove()


def all_inputs(decoder: Decoder, block: Block, hidden_NTC: Tensor) -> tuple[dict[str, list[Tensor]], Tensor]:
    """Of every watched role its inputs, by batch; and the block's output."""
    found: dict[str, list[Tensor]] = {role: [] for role in watched(block)}

    def note(role: str, inputs: Tensor) -> None:
        found[role].append(inputs.flatten(0, -2))

    with torch.no_grad(), watch_inputs(block, note, watched(block)):
        return found, decoder.run(block, hidden_NTC)


def sums(
    given: Iterator[Tensor], wanted: Sequence[Tensor] | None, weighed: Sequence[Tensor] | None = None
) -> tuple[Tensor, Tensor | None]:
    """X^T X, and X^T (Y - X) where inputs Y of the same tokens are wanted instead; float64. `weighed`: how much each
    token counts, by batch."""
    gram = drift = None
    for number, inputs in enumerate(given):
        root = None if weighed is None else weighed[number].sqrt()[:, None]
        scaled = inputs if root is None else inputs * root
        own = cross_gram(scaled, scaled)
        gram = own if gram is None else gram + own
        if wanted is not None:
            off = wanted[number] - inputs
            apart = cross_gram(scaled, off if root is None else off * root)
            drift = apart if drift is None else drift + apart
    assert gram is not None
    return gram, drift
