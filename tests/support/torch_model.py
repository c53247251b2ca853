"""A checkpoint in PyTorch, edited by hand: what any export of it must compute after a plan.

`Model` knows no graph; `prove` (`proved.py`) compares it with one that foldrank changed.
"""

from __future__ import annotations

import copy
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foldrank.digests import WeightDigest, combine
from foldrank.edits import Edit
from foldrank.edits.add_bias import AddBias
from foldrank.edits.drop_branch import DropBranch
from foldrank.edits.fold_blocks import FoldBlocks
from foldrank.edits.low_rank import LowRank
from foldrank.edits.low_rank_table import LowRankTable
from foldrank.edits.pre_rmsnorm import PreRmsnorm
from foldrank.edits.replace_weight import ReplaceWeight
from foldrank.edits.rotate_stream import RotateStream
from foldrank.edits.slice_mlp import Channels, SliceMlp
from foldrank.planfile.document import PlanDocument, Source
from foldrank.planfile.plan import Plan
from foldrank.sites import Site

CLOSE = 1e-4
"""fp32 graphs against float64: largest error over the largest logit."""
IDS = np.random.default_rng(4).integers(3, 250, 40)
Linears = dict[str, tuple[str, ...]]
_LLAMA: Linears = {**{f"self_attn.{role}_proj": (role,) for role in "qkvo"},
                   **{f"mlp.{role}_proj": (role,) for role in ("gate", "up", "down")}}
_MLP: Linears = {"mlp.dense_h_to_4h": ("up",), "mlp.dense_4h_to_h": ("down",)}
PATHS: dict[str, tuple[str, Linears]] = {
    "phi3": ("model.layers", {
        "self_attn.qkv_proj": ("q", "k", "v"), "self_attn.o_proj": ("o",), "mlp.gate_up_proj": ("gate", "up"),
        "mlp.down_proj": ("down",)}),
    "gpt2": ("transformer.h", {
        "attn.c_attn": ("q", "k", "v"), "attn.c_proj": ("o",), "mlp.c_fc": ("up",), "mlp.c_proj": ("down",)}),
    "opt": ("model.decoder.layers", {
        **{f"self_attn.{role}_proj": (role,) for role in "qkv"}, "self_attn.out_proj": ("o",), "fc1": ("up",),
        "fc2": ("down",)}),
    "gpt_neox": ("gpt_neox.layers", {
        "attention.query_key_value": ("q", "k", "v"), "attention.dense": ("o",), **_MLP}),
    "falcon": ("transformer.h", {
        "self_attention.query_key_value": ("q", "k", "v"), "self_attention.dense": ("o",), **_MLP}),
}
"""Model type: where its blocks are, and the modules with the roles they hold side by side (query_key_value in storage
order: as wide as q, then k, then v are, whatever lies there)."""


def attention_of(checkpoint: Path) -> str:
    """transformers' form of attention that computes what the checkpoint was trained as.

    SDPA leaves a soft cap out. The eager form of Falcon adds ALiBi twice: to the mask, and to the scores again.
    """
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    return "sdpa" if config.get("alibi") else "eager"


class Model:
    """The model, float32 until it is run; `edits` and `arrays` are the plan that its changes stand for."""

    def __init__(self, checkpoint: Path) -> None:
        from transformers import AutoModelForCausalLM

        self.model: Any = AutoModelForCausalLM.from_pretrained(
            checkpoint, dtype=torch.float32, attn_implementation=attention_of(checkpoint))
        self.path, self.linears = PATHS.get(self.model.config.model_type, ("model.layers", _LLAMA))
        self.roles = [role for roles in self.linears.values() for role in roles]
        self.layers = self.model.get_submodule(self.path)
        self.original = copy.deepcopy(self.layers)
        self.edits: list[Edit] = []
        self.arrays: dict[str, np.ndarray] = {}
        self.gone: set[int] = set()

    def _matrix(self, layer: torch.nn.Module, role: str) -> torch.Tensor:
        """View [in, out] of one role."""
        path, roles = next((path, roles) for path, roles in self.linears.items() if role in roles)
        module: Any = layer.get_submodule(path)
        whole = module.weight if type(module).__name__ == "Conv1D" else module.weight.T
        return whole.split(self._widths(roles, whole.shape[1]), dim=1)[roles.index(role)]

    def _widths(self, roles: tuple[str, ...], columns: int) -> list[int]:
        if roles != ("q", "k", "v"):
            return [columns // len(roles)] * len(roles)
        config = self.model.config
        heads = config.num_attention_heads
        queries = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
        return [queries, (columns - queries) // 2, (columns - queries) // 2]

    def weight(self, block: int, role: str, original: bool = False) -> np.ndarray:
        """[in, out]."""
        layer = (self.original if original else self.layers)[block]
        return np.ascontiguousarray(self._matrix(layer, role).detach().numpy())

    def kind(self, block: int) -> tuple[object, ...]:
        """What the config says of one block alone."""
        config = self.model.config
        lists = (getattr(config, name, None) for name in ("layer_types", "no_rope_layers"))
        return tuple(values[block] if values else None for values in lists)

    def fold(self, blocks: tuple[int, ...], coefficients: dict[int, float], norms: str = "bottom",
             into: int | None = None) -> Model:
        """Merge; the merged block stands where the lowest was."""
        into = blocks[0] if into is None else into
        values = [coefficients[b] for b in blocks]
        merged = copy.deepcopy(self.original[blocks[0]])
        kept = self.original[blocks[0] if norms == "bottom" else blocks[-1]]
        with torch.no_grad():
            for name, parameter in merged.named_parameters():
                if "norm" in name or "ln_" in name:
                    parameter.copy_(kept.get_parameter(name))
                else:
                    olds = [self.original[b].get_parameter(name).detach().numpy() for b in blocks]
                    parameter.copy_(torch.from_numpy(combine(olds, values)))
        self.layers[into] = merged
        self.edits.append(FoldBlocks(into, blocks, coefficients, norms))
        self.gone |= set(blocks) - {into}
        return self

    def drop(self, block: int, branch: str) -> Model:
        """The last linear of the branch gives zeros. A block that loses both branches is no block any more."""
        paths = {role: path for path, roles in self.linears.items() for role in roles}
        last = self.layers[block].get_submodule(paths["o" if branch == "attention" else "down"])
        last.register_forward_hook(lambda _module, _inputs, output: torch.zeros_like(output))
        self.edits.append(DropBranch(block, branch))
        return self

    @property
    def rotates(self) -> bool:
        """Whether blocks have an RMS norm before each branch and no other."""
        norms = {name: type(module).__name__ for name, module in self.layers[0].named_children() if "norm" in name}
        return norms.keys() == {"input_layernorm", "post_attention_layernorm"} and all(
            "RMSNorm" in name for name in norms.values())

    def rotate(self, signs: str = "") -> Model:
        """The stream is turned and logits stay, so nothing is done here. No edit of weights may follow."""
        width = self.model.config.hidden_size
        signs = signs or np.packbits(np.random.default_rng(width).random(width) < 0.5).tobytes().hex()
        self.edits.append(RotateStream(width, signs, *self._held()))
        return self

    @property
    def centres(self) -> bool:
        """Whether blocks have LayerNorms."""
        return any(isinstance(module, torch.nn.LayerNorm) for module in self.layers[0].children())

    def centre(self) -> Model:
        """LayerNorms become RMS norms and logits stay, so nothing is done here. No edit of weights may follow."""
        self.edits.append(PreRmsnorm(self.model.config.hidden_size, *self._held()))
        return self

    def _held(self) -> list[tuple[int, ...]]:
        """Blocks that have each branch."""
        gone = {(edit.block, edit.branch) for edit in self.edits if isinstance(edit, DropBranch)}
        return [tuple(b for b in range(len(self.original)) if b not in self.gone and (b, branch) not in gone)
                for branch in ("attention", "mlp")]

    def low_rank(self, site: str, rank: int) -> Model:
        """A random pair."""
        parsed, weights = self._site(site)
        rng = np.random.default_rng(rank)
        n_in, n_out = weights[0].shape[0], sum(w.shape[1] for w in weights)
        a = (rng.standard_normal((n_in, rank)) / np.sqrt(n_in)).astype(np.float32)
        b = (rng.standard_normal((rank, n_out)) / np.sqrt(rank)).astype(np.float32)
        self.edits.append(LowRank(parsed, (n_in, n_out), rank, (f"{site}.A", f"{site}.B"),
                                  tuple(WeightDigest.of(w) for w in weights)))
        self.arrays |= {f"{site}.A": a, f"{site}.B": b}
        self._set(parsed, torch.from_numpy(a).double() @ torch.from_numpy(b).double())
        return self

    @property
    def tied(self) -> bool:
        """Whether the head is the table of words, as it stands."""
        return self.model.get_output_embeddings().weight is self.model.get_input_embeddings().weight

    def table(self, of: str, rank: int) -> Model:
        """A random pair in the place of the head, the table of words, or `both` where they are one."""
        ends = {"head": self.model.get_output_embeddings(), "embedding": self.model.get_input_embeddings()}
        held = list(ends.values()) if of == "both" else [ends[of]]
        old = np.ascontiguousarray(held[0].weight.detach().numpy().T)
        rng = np.random.default_rng([rank, len(old)])
        a = (rng.standard_normal((len(old), rank)) / np.sqrt(rank)).astype(np.float32)
        b = (rng.standard_normal((rank, old.shape[1])) / 5).astype(np.float32)
        self.edits.append(LowRankTable(of, old.shape, rank, (f"{of}.A", f"{of}.B"), WeightDigest.of(old)))
        self.arrays |= {f"{of}.A": a, f"{of}.B": b}
        whole = torch.nn.Parameter(torch.from_numpy((a.astype(np.float64) @ b).T.astype(np.float32)))
        for module in held:
            module.weight = whole
        return self

    def replace(self, site: str) -> Model:
        """A random dense weight."""
        parsed, weights = self._site(site)
        shape = weights[0].shape[0], sum(w.shape[1] for w in weights)
        new = (np.random.default_rng(shape).standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)
        self.edits.append(ReplaceWeight(parsed, f"{site}.W", tuple(WeightDigest.of(w) for w in weights)))
        self.arrays[f"{site}.W"] = new
        self._set(parsed, torch.from_numpy(new))
        return self

    def narrow(self, block: int, kept: list[int], *, down: bool = False, bias: bool = False) -> Model:
        """An MLP of these channels: the others stay, and what they would give is masked. `down` and `bias` are random,
        so that a graph that ignores them is found out."""
        layer = self.layers[block]
        matrix = self._matrix(layer, "down")
        (width, out), name, rng = matrix.shape, f"block.{block:02d}", np.random.default_rng(block)
        arrays = {f"{name}.D": rng.standard_normal((len(kept), out)).astype(np.float32) / 9} if down else {}
        arrays |= {f"{name}.b": rng.standard_normal(out).astype(np.float32)} if bias else {}
        digests = tuple(WeightDigest.of(self.weight(block, r)) for r in ("gate", "up", "down") if r in self.roles)
        names = [next((n for n in arrays if n.endswith(end)), None) for end in (".D", ".b")]
        self.edits.append(SliceMlp(block, (width, out), Channels(tuple(kept)), *names, digests))
        self.arrays |= arrays
        with torch.no_grad():
            matrix[[i for i in range(width) if i not in kept]] = 0
            if down:
                matrix[kept] = torch.from_numpy(arrays[f"{name}.D"])
        if bias:
            path = next(path for path, held in self.linears.items() if held == ("down",))
            added = torch.from_numpy(arrays[f"{name}.b"])
            layer.get_submodule(path).register_forward_hook(lambda _m, _i, output: output + added.to(output))
        return self

    def bias(self, site: str) -> Model:
        """A random vector added to what a role gives, behind the module that gives it."""
        parsed, (matrix,) = self._site(site)
        path, roles = next((path, roles) for path, roles in self.linears.items() if parsed.role in roles)
        added = np.random.default_rng(matrix.shape).standard_normal(matrix.shape[1]).astype(np.float32)
        widths = [self.weight(parsed.block, role).shape[1] for role in roles]
        whole = torch.cat([torch.from_numpy(added) if role == parsed.role else torch.zeros(width)
                           for role, width in zip(roles, widths, strict=True)])
        self.layers[parsed.block].get_submodule(path).register_forward_hook(
            lambda _m, _i, output: output + whole.to(output))
        self.edits.append(AddBias(parsed, len(added), f"{site}.bias"))
        self.arrays[f"{site}.bias"] = added
        return self

    def _site(self, site: str) -> tuple[Site, list[np.ndarray]]:
        parsed = Site.parse(site)
        return parsed, [self.weight(parsed.block, role) for role in parsed.roles]

    def _set(self, site: Site, whole: torch.Tensor) -> None:
        start = 0
        with torch.no_grad():
            for role in site.roles:
                matrix = self._matrix(self.layers[site.block], role)
                matrix.copy_(whole[:, start : start + matrix.shape[1]])
                start += matrix.shape[1]

    def plan(self, config_sha256: str = "0" * 64) -> Plan:
        """The plan of all edits so far."""
        read = {str(part) for edit in self.edits for part in edit.touch.reads}
        sites = ((b, role) for b in range(len(self.original)) for role in self.roles)
        digests = {site: WeightDigest.of(self.weight(b, role, original=True)) for b, role in sites
                   if (site := f"block.{b:02d}.{role}") in read}
        source = Source("tiny", config_sha256, "x", len(self.original), digests)
        return Plan(PlanDocument(source, None, (), {}, {}, tuple(self.edits)), self.arrays)

    def logits(self, ids: np.ndarray) -> np.ndarray:
        """[T, vocab] of one sequence, float64. No edit may follow."""
        with torch.no_grad():
            return self._final(torch.from_numpy(ids)[None], use_cache=False).logits[0].numpy()

    @cached_property
    def _final(self) -> Any:
        """The model with the blocks that stay. A merged block runs where its lowest was, as that kind of attention."""
        places = {fold.into: fold.blocks[0] for fold in self.edits if isinstance(fold, FoldBlocks)}
        kept = [i for i in range(len(self.layers)) if i not in self.gone]
        parent, _, name = self.path.rpartition(".")
        setattr(self.model.get_submodule(parent), name, torch.nn.ModuleList([self.layers[i] for i in kept]))
        config = self.model.config
        if getattr(config, "layer_types", None):
            config.layer_types = [config.layer_types[places.get(i, i)] for i in kept]
        config.num_hidden_layers = len(kept)
        return self.model.double()
