"""Plans for a decoder, and the decoder that each plan asks for."""

from __future__ import annotations

import numpy as np

from foldrank.digests import WeightDigest, combine
from foldrank.edits.drop_branch import DropBranch
from foldrank.edits.fold_blocks import FoldBlocks
from foldrank.edits.low_rank import LowRank
from foldrank.edits.replace_weight import ReplaceWeight
from foldrank.plandocument import PlanDocument, Source
from foldrank.planfile import Plan
from foldrank.sites import Site
from synthetic.decoders import ROLES, Decoder


class PlanMaker:
    """Makes plans for a decoder and, apart from foldrank's passes, the decoder that each plan asks for."""

    def __init__(self, decoder: Decoder, config_sha256: str) -> None:
        self.decoder, self.config_sha256 = decoder, config_sha256
        self.folds: list[FoldBlocks] = []
        self.drops: list[DropBranch] = []
        self.edits: list[LowRank | ReplaceWeight] = []
        self.arrays: dict[str, np.ndarray] = {}
        self.blocks = [dict(block) for block in decoder.blocks]

    def __repr__(self) -> str:
        edits = [*self.folds, *self.drops, *((str(e.site), getattr(e, "rank", None)) for e in self.edits)]
        return f"plan({', '.join(map(str, edits))})"

    def fold(self, blocks: tuple[int, ...], coefficients: dict[int, float], into: int | None = None,
             norms: str = "bottom") -> PlanMaker:
        """Merge neighbours; `into` is the lowest where not given."""
        into = blocks[0] if into is None else into
        fold = FoldBlocks(into, blocks, coefficients, norms)
        merged = {name: combine([self.decoder.blocks[b][name] for b in blocks], [coefficients[b] for b in blocks])
                  for name in self.decoder.blocks[into] if not name.startswith("norm")}
        kept = self.decoder.blocks[blocks[0] if norms == "bottom" else blocks[-1]]
        self.blocks[into] = {**merged, **{name: gain for name, gain in kept.items() if name.startswith("norm")}}
        self.folds.append(fold)
        return self

    def drop(self, block: int, branch: str) -> PlanMaker:
        """The branch adds nothing."""
        gone = ROLES[:4] if branch == "attention" else ROLES[4:]
        self.blocks[block] = {name: array for name, array in self.blocks[block].items() if name not in gone}
        self.drops.append(DropBranch(block, branch))
        return self

    def low_rank(self, site: str, rank: int, seed: int = 0) -> PlanMaker:
        """A random pair, so that a graph that ignores it is found out."""
        parsed = Site.parse(site)
        weights = [self.blocks[parsed.block][role] for role in parsed.roles]
        n_in, n_out = weights[0].shape[0], sum(w.shape[1] for w in weights)
        rng = np.random.default_rng([seed, n_in, n_out, rank])
        a = rng.standard_normal((n_in, rank)).astype(np.float32) / np.float32(np.sqrt(n_in))
        b = rng.standard_normal((rank, n_out)).astype(np.float32) / np.float32(np.sqrt(rank))
        names = (f"{site}.A", f"{site}.B")
        self.edits.append(LowRank(parsed, (n_in, n_out), rank, names, tuple(WeightDigest.of(w) for w in weights)))
        self.arrays |= {names[0]: a, names[1]: b}
        dtype = self.decoder.shape.stored
        self._set(parsed, a.astype(dtype).astype(np.float64) @ b.astype(dtype).astype(np.float64))
        return self

    def replace(self, site: str, seed: int = 0) -> PlanMaker:
        """A random dense weight."""
        parsed = Site.parse(site)
        weights = [self.blocks[parsed.block][role] for role in parsed.roles]
        shape = (weights[0].shape[0], sum(w.shape[1] for w in weights))
        new = (np.random.default_rng(seed).standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)
        self.edits.append(ReplaceWeight(parsed, f"{site}.W", tuple(WeightDigest.of(w) for w in weights)))
        self.arrays[f"{site}.W"] = new
        self._set(parsed, new.astype(self.decoder.shape.stored))
        return self

    def _set(self, site: Site, whole: np.ndarray) -> None:
        start = 0
        for role in site.roles:
            width = self.blocks[site.block][role].shape[1]
            self.blocks[site.block][role] = whole[:, start : start + width]
            start += width

    def plan(self) -> Plan:
        """The plan."""
        read = {str(part) for edit in (*self.folds, *self.drops) for part in edit.touch.reads}
        weights = {site: WeightDigest.of(block[role]) for b, block in enumerate(self.decoder.blocks)
                   for role in self.decoder.shape.roles if (site := f"block.{b:02d}.{role}") in read}
        source = Source("tiny", self.config_sha256, "LlamaForCausalLM", self.decoder.shape.blocks, weights)
        document = PlanDocument(source, None, (), {}, {}, (*self.folds, *self.drops, *self.edits))
        return Plan(document, self.arrays)

    def expected(self) -> Decoder:
        """What the compressed graph must compute."""
        gone = {b for fold in self.folds for b in fold.leaving}
        d = self.decoder
        blocks = [block for i, block in enumerate(self.blocks) if i not in gone and {"o", "down"} & set(block)]
        return Decoder(d.shape, blocks, d.head, d.embedding, d.norm)
