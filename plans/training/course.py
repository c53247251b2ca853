"""Where training stands: parameters, the best of them so far, the optimizer, and what was measured.

All of it lies on a shelf after each measurement, so that training that was cut short goes on from there and ends the
same. LISA (arXiv 2403.17919): a few blocks, drawn anew now and then, train while the others stay; only those have an
optimizer's state. Embedding and head, where they train, always do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from foldrank.plans.shelf import Finding, Shelf
from foldrank.plans.training.adapters import Adapter

SLOWER, LOWERED = 0.2, 2
"""What the learning rate is multiplied by once no better state was found for a while, and how often: a plan that lost
little is soon trained too fast."""

INTERVAL = 10
"""Steps after which LISA draws other blocks."""

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW knows of a parameter."""


@dataclass
class Course:
    """`rate`: AdamW's at its peak. `steps` in all; the optimizer began at step `began`. `curve`: (step, held-out KL in
    nats); `since`: measurements since the best; `lowered`: how often the rate was. `lisa`: blocks that train at a time,
    0 for all. `seconds` were spent before this process."""

    adapted: Adapter
    rate: float
    steps: int
    seed: int = 0
    lisa: int = 0
    step: int = 0
    began: int = 0
    since: int = 0
    lowered: int = 0
    seconds: float = 0.0
    curve: list[tuple[int, float]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    _optimizer: torch.optim.AdamW = field(init=False)

    def __post_init__(self) -> None:
        self._start()

    def advance(self) -> None:
        """Take a step along the gradients that there are."""
        self._optimizer.param_groups[0]["lr"] = self.rate * SLOWER**self.lowered * _share(
            self.step - self.began, max(1, self.steps - self.began))
        torch.nn.utils.clip_grad_norm_(self._trained(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.step += 1
        if self.lisa and self.step % INTERVAL == 0:
            self._start()

    def measured(self, loss: float, patience: int) -> bool:
        """Note the loss of the state there is. After `patience` measurements without a better one training goes on from
        the best, slower; False once it was slowed as often as may be."""
        better = not self.curve or loss < min(known for _, known in self.curve)
        self.curve.append((self.step, loss))
        self.since = 0 if better else self.since + 1
        if better:
            self.best = {name: parameter.detach().clone() for name, parameter in self.adapted.parameters.items()}
        elif self.since == patience:
            if self.lowered == LOWERED:
                return False
            self.lowered, self.since, self.began = self.lowered + 1, 0, self.step
            self.put_back()
            self._start()
        return True

    def put_back(self) -> None:
        """The best state so far in the place of the last."""
        with torch.no_grad():
            for name, parameter in self.adapted.parameters.items():
                parameter.copy_(self.best[name])

    def put(self, shelf: Shelf, seconds: float) -> None:
        """Put down where it stands, `seconds` of work spent; the best state only where it is not the one there is."""
        tensors = {f"now {name}": tensor for name, tensor in self.adapted.parameters.items()}
        if self.since:
            tensors |= {f"best {name}": tensor for name, tensor in self.best.items()}
        for name, parameter in self.adapted.parameters.items():
            for moment in _MOMENTS:
                if moment in (known := self._optimizer.state.get(parameter, {})):
                    tensors[f"{moment} {name}"] = known[moment]
        shelf.put("course", Finding(tensors, {
            "steps": self.steps, "step": self.step, "began": self.began, "since": self.since, "lowered": self.lowered,
            "seconds": seconds, "curve": [list(point) for point in self.curve],
        }))

    def resume(self, shelf: Shelf) -> bool:
        """Take up what was put down; False where nothing was."""
        held = shelf.get("course")
        if held is None:
            return False
        for name in ("steps", "step", "began", "since", "lowered", "seconds"):
            setattr(self, name, held.values[name])
        self.curve = [(step, loss) for step, loss in held.values["curve"]]
        which = "best" if self.since else "now"
        self.best = {name: held.tensors[f"{which} {name}"].to(tensor.device).clone()
                     for name, tensor in self.adapted.parameters.items()}
        with torch.no_grad():
            for name, parameter in self.adapted.parameters.items():
                parameter.copy_(held.tensors[f"now {name}"])
        self._start()
        there = set(held.tensors)
        for name, parameter in self.adapted.parameters.items():
            if f"step {name}" in there:
                self._optimizer.state[parameter] = {
                    moment: _placed(held.tensors, f"{moment} {name}", parameter, moment) for moment in _MOMENTS}
        return True

    def _start(self) -> None:
        """An optimizer that knows nothing yet, of what trains now."""
        chosen = self._chosen()
        for name, parameter in self.adapted.parameters.items():
            blocks = self.adapted.blocks[name]
            parameter.requires_grad_(not blocks or bool(blocks & chosen))
            parameter.grad = None
        self._optimizer = torch.optim.AdamW(self._trained(), lr=self.rate, weight_decay=0.0)

    def _trained(self) -> list[Tensor]:
        return [parameter for parameter in self.adapted.parameters.values() if parameter.requires_grad]

    def _chosen(self) -> frozenset[int]:
        """Source numbers of the blocks that train now: of those there are parameters for, all or a few drawn."""
        known = sorted(frozenset().union(*self.adapted.blocks.values()))
        if not 0 < self.lisa < len(known):
            return frozenset(known)
        random = np.random.default_rng((self.seed, self.step // INTERVAL))
        return frozenset(random.choice(known, size=self.lisa, replace=False).tolist())


def _placed(tensors: Mapping[str, Tensor], key: str, parameter: Tensor, moment: str) -> Tensor:
    """AdamW counts its steps on the CPU."""
    return tensors[key].clone() if moment == "step" else tensors[key].to(parameter.device)


def _share(step: int, steps: int) -> float:
    """Of the peak learning rate: up over the first twentieth, then down a half cosine to nothing."""
    warm = max(1, steps // 20)
    return (step + 1) / warm if step < warm else 0.5 + 0.5 * math.cos(math.pi * (step - warm) / max(1, steps - warm))
