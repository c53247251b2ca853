"""Names of tensors that are the model's but for what a wrapper put before or into them, and how to take it out.

Knows names. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "module.", "base_model.model.",
            "base_layer.")
"""What torch.compile, FSDP, activation checkpointing, DataParallel and PEFT write into names, anywhere in them."""


@dataclass(frozen=True)
class Prefix:
    """`worn` stands in the file's names where the model's have `wanted`, at the beginning unless `anywhere`."""

    worn: str
    wanted: str
    anywhere: bool = False

    def renamed(self, name: str) -> str:
        """The name as the model has it."""
        if self.anywhere:
            return name.replace(self.worn, self.wanted)
        return self.wanted + name.removeprefix(self.worn) if name.startswith(self.worn) else name

    @property
    def way_out(self) -> str:
        """Python that writes a file F anew under the model's names, in one line."""
        name = f"n.replace({self.worn!r}, {self.wanted!r}{'' if self.anywhere else ', 1'})"
        return ("from safetensors.torch import load_file, save_file; t = load_file(F); "
                f"save_file({{{name}: v for n, v in t.items()}}, F, {{'format': 'pt'}})")


def prefix_of(unknown: Sequence[str], missing: Sequence[str]) -> Prefix | None:
    """What turns every unknown name into a missing one; tensors that are missing besides do not count."""
    wanted = set(missing)
    if not unknown or not wanted:
        return None
    candidates = [Prefix(wrapper, "", anywhere=True) for wrapper in WRAPPERS]
    candidates.append(max((_cut(unknown[-1], name) for name in sorted(wanted)), key=lambda found: -len(found.worn)))
    return next((found for found in candidates if {found.renamed(name) for name in unknown} <= wanted), None)


def _cut(worn: str, wanted: str) -> Prefix:
    """What stands before the parts that both names end with; a name's first part may differ, its last may not."""
    parts, others = worn.split("."), wanted.split(".")
    same = next((i for i, (a, b) in enumerate(zip(reversed(parts), reversed(others), strict=False)) if a != b),
                min(len(parts), len(others)))
    before, instead = ("".join(f"{part}." for part in name[: len(name) - same]) for name in (parts, others))
    return Prefix(before, instead)
