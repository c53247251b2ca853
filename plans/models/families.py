"""The table of families: where a model keeps its blocks, and in each block the linears by role.

Knows names of modules. A packed linear names its roles in storage order along the output; a family without a gate has
six roles. What stands before, between and after the blocks (scaled embeddings, positions, four norms, multipliers,
soft-capping) is never described here: it is asked of the model itself (`capture.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from foldrank.edits.base import BRANCHES, Branch
from foldrank.errors import SourceError
from foldrank.model.checkpoint import Checkpoint
from foldrank.sites import ROLES


@dataclass(frozen=True)
class Family:
    """`layers`: path of the list of blocks. `linears`: path in a block to the roles its output holds, in order.
    `norms`: path of each norm between these, whichever of them a block has, to the branch it serves.

    `interleaved`: roles that their linear holds head by head, so that none of them is a run of columns. They are edited
    together; each stands for a run as wide as it is, in storage order, so that all of them are the weight as it lies.
    """

    layers: str
    linears: Mapping[str, tuple[str, ...]]
    interleaved: tuple[str, ...] = ()
    norms: Mapping[str, Branch] = field(default_factory=lambda: _NORMS)

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles of a block, in the order of `ROLES`."""
        held = {role for roles in self.linears.values() for role in roles}
        return tuple(role for role in ROLES if role in held)

    def path(self, role: str) -> str:
        """Path in a block of the linear that holds the role."""
        return next(path for path, roles in self.linears.items() if role in roles)

    def owner(self, name: str, names: Iterable[str]) -> Branch | None:
        """The branch that alone reads a block's tensor. `names`: of all its tensors; a norm is both branches' where the
        other has none of its own."""
        module = name.rpartition(".")[0]
        if (branch := self.norms.get(module)) is not None:
            served = {self.norms.get(other.rpartition(".")[0]) for other in names}
            return branch if served >= set(BRANCHES) else None
        return next((branch for branch, roles in BRANCHES.items() for path, held in self.linears.items()
                     if set(held) <= set(roles) and module.startswith(path.rpartition(".")[0] or path)), None)


_NORMS: dict[str, Branch] = {"input_layernorm": "attention", "post_attention_layernorm": "mlp"}
_BEHIND: dict[str, Branch] = {"post_attention_layernorm": "attention", "post_feedforward_layernorm": "mlp"}
_AROUND: dict[str, Branch] = {**_BEHIND, "input_layernorm": "attention", "pre_feedforward_layernorm": "mlp"}
_ATTENTION = {f"self_attn.{role}_proj": (role,) for role in "qkvo"}
_GATED = Family("model.layers", {**_ATTENTION, **{f"mlp.{role}_proj": (role,) for role in ("gate", "up", "down")}})
_NORMED_BEHIND, _NORMED_AROUND = (Family(_GATED.layers, _GATED.linears, norms=norms) for norms in (_BEHIND, _AROUND))
_PHI3 = Family("model.layers", {
    "self_attn.qkv_proj": ("q", "k", "v"), "self_attn.o_proj": ("o",),
    "mlp.gate_up_proj": ("gate", "up"), "mlp.down_proj": ("down",),
})
_GPT2 = Family("transformer.h", {
    "attn.c_attn": ("q", "k", "v"), "attn.c_proj": ("o",), "mlp.c_fc": ("up",), "mlp.c_proj": ("down",),
}, norms={"ln_1": "attention", "ln_2": "mlp"})
_OPT = Family("model.decoder.layers", {
    **{f"self_attn.{role}_proj": (role,) for role in "qkv"}, "self_attn.out_proj": ("o",),
    "fc1": ("up",), "fc2": ("down",),
}, norms={"self_attn_layer_norm": "attention", "final_layer_norm": "mlp"})
_NEOX, _FALCON = (
    Family(layers, {
        f"{attention}.query_key_value": ("q", "k", "v"), f"{attention}.dense": ("o",),
        "mlp.dense_h_to_4h": ("up",), "mlp.dense_4h_to_h": ("down",),
    }, interleaved=("q", "k", "v"), norms={**_NORMS, "ln_attn": "attention", "ln_mlp": "mlp"})
    for layers, attention in (("gpt_neox.layers", "attention"), ("transformer.h", "self_attention"))
)

FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": _GATED,
    "MistralForCausalLM": _GATED,
    "Qwen2ForCausalLM": _GATED,
    "Qwen3ForCausalLM": _GATED,
    "GemmaForCausalLM": _GATED,
    "Gemma2ForCausalLM": _NORMED_AROUND,
    "Gemma3ForCausalLM": _NORMED_AROUND,
    "GraniteForCausalLM": _GATED,
    "SmolLM3ForCausalLM": _GATED,
    "Olmo2ForCausalLM": _NORMED_BEHIND,
    "Phi3ForCausalLM": _PHI3,
    "GPT2LMHeadModel": _GPT2,
    "OPTForCausalLM": _OPT,
    "GPTNeoXForCausalLM": _NEOX,
    "FalconForCausalLM": _FALCON,
}
"""Every family that can be planned for, by the architecture its config names."""

_EXPERTS = (
    "MixtralForCausalLM", "Qwen2MoeForCausalLM", "Qwen3MoeForCausalLM", "OlmoeForCausalLM", "PhimoeForCausalLM",
    "GraniteMoeForCausalLM", "DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM", "GptOssForCausalLM", "DbrxForCausalLM",
)

REFUSED: dict[str, str] = dict.fromkeys(_EXPERTS, "it is a mixture of experts")
"""Architectures that are recognised and refused, with the reason."""

EAGER = ("Gemma2ForCausalLM",)
"""Families whose soft-capped attention transformers computes in its eager form only."""


def check_family(checkpoint: Checkpoint) -> None:
    """Raise SourceError where no plan can be made for the architecture, before anything long."""
    name = checkpoint.architecture
    if name not in FAMILIES:
        because = f": {REFUSED[name]}" if name in REFUSED else ""
        raise SourceError(checkpoint.path, f"architecture {name} cannot be planned for{because}",
                          f"known are {', '.join(FAMILIES)}")
