"""Plans for a decoder, and the decoder that each plan asks for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from foldrank.digests import WeightDigest, combine
from foldrank.edits.add_bias import AddBias
from foldrank.edits.add_low_rank import AddLowRank
from foldrank.edits.drop_branch import DropBranch
from foldrank.edits.fold_blocks import FoldBlocks
from foldrank.edits.low_rank import LowRank
from foldrank.edits.low_rank_table import LowRankTable
from foldrank.edits.pre_rmsnorm import PreRmsnorm
from foldrank.edits.quantize_embedding import QuantizeEmbedding
from foldrank.edits.quantize_head import QuantizeHead
from foldrank.edits.quantize_weight import QuantizeWeight
from foldrank.edits.replace_weight import ReplaceWeight
from foldrank.edits.rotate_stream import RotateStream
from foldrank.edits.share_weights import ShareWeights
from foldrank.edits.slice_mlp import Channels, SliceMlp
from foldrank.edits.storage import FewBits, Numbers
from foldrank.planfile.document import PlanDocument, Source
from foldrank.planfile.plan import Plan
from foldrank.sites import Site
from synthetic.decoders import ROLES, Decoder


class PlanMaker:
    """Makes plans for a decoder and, apart from foldrank's passes, the decoder that each plan asks for."""

    def __init__(self, decoder: Decoder, config_sha256: str) -> None:
        self.decoder, self.config_sha256 = decoder, config_sha256
        self.folds: list[FoldBlocks] = []
        self.drops: list[DropBranch] = []
        self.slices: list[SliceMlp] = []
        self.biases: list[AddBias] = []
        self.centrings: list[PreRmsnorm] = []
        self.rotations: list[RotateStream] = []
        self.turn: np.ndarray | None = None
        self.edits: list[LowRank | ReplaceWeight] = []
        self.factored: list[LowRankTable] = []
        self.shares: list[ShareWeights] = []
        self.stored: list[QuantizeWeight | QuantizeHead | QuantizeEmbedding] = []
        self.added: list[AddLowRank] = []
        self.head, self.embedding = decoder.head, decoder.embedding
        self.factors: dict[Site, tuple[np.ndarray, np.ndarray]] = {}
        self.arrays: dict[str, np.ndarray] = {}
        self.blocks = [dict(block) for block in decoder.blocks]

    def __repr__(self) -> str:
        slices = [(e.block, str(e.channels), e.down, e.bias) for e in self.slices]
        edits = [*self.folds, *self.drops, *slices, *self.centrings, *self.rotations, *self.shares,
                 *((str(e.site), getattr(e, "rank", None)) for e in self.edits),
                 *((str(e.site), "beside", e.rank) for e in self.added)]
        return f"plan({', '.join(map(str, edits))})"

    def fold(self, blocks: tuple[int, ...], coefficients: dict[int, float], into: int | None = None,
             norms: str = "bottom", by_input: dict[str, dict[int, float]] | None = None) -> PlanMaker:
        """Merge neighbours; `into` is the lowest where not given."""
        into, by_input = blocks[0] if into is None else into, by_input or {}
        fold = FoldBlocks(into, blocks, coefficients, norms, by_input)
        read = {"q": "qkv", "k": "qkv", "v": "qkv", "gate": "gate_up", "up": "gate_up"}

        def shares(name: str) -> list[float]:
            role = name.rpartition(".")[2]
            return [by_input.get(read.get(role, role), coefficients)[b] for b in blocks]

        merged = {name: combine([self.decoder.blocks[b][name] for b in blocks], shares(name))
                  for name in self.decoder.blocks[into] if not name.startswith(("norm", "beta"))}
        kept = self.decoder.blocks[blocks[0] if norms == "bottom" else blocks[-1]]
        self.blocks[into] = {**merged, **{n: own for n, own in kept.items() if n.startswith(("norm", "beta"))}}
        self.folds.append(fold)
        return self

    def drop(self, block: int, branch: str) -> PlanMaker:
        """The branch adds nothing."""
        gone = ROLES[:4] if branch == "attention" else ROLES[4:]
        self.blocks[block] = {name: array for name, array in self.blocks[block].items() if name not in gone}
        self.drops.append(DropBranch(block, branch))
        return self

    def slice(self, block: int, channels: tuple[int, ...], *, down: bool = False, bias: bool = False) -> PlanMaker:
        """Keep these channels; `down` and `bias` are random, so that a graph that ignores them is found out."""
        held, kept = self.blocks[block], list(channels)
        roles = tuple(role for role in ("gate", "up", "down") if role in held)
        width, out = held["down"].shape
        digests = tuple(WeightDigest.of(held[role]) for role in roles)
        names = [f"block.{block:02d}.{name}" if asked else None for name, asked in (("down", down), ("bias", bias))]
        self.slices.append(SliceMlp(block, (width, out), Channels(channels), *names, digests))
        rng, stored = np.random.default_rng([block, len(kept)]), self.decoder.shape.stored
        for role in roles[:-1]:
            held[role] = held[role][:, kept]
            if f"bias.{role}" in held:
                held[f"bias.{role}"] = held[f"bias.{role}"][kept]
        held["down"] = held["down"][kept]
        if down:
            new = (rng.standard_normal((len(kept), out)) / np.sqrt(width)).astype(np.float32)
            self.arrays[names[0]], held["down"] = new, new.astype(stored)
        if bias:
            new = rng.standard_normal(out).astype(np.float32)
            self.arrays[names[1]] = new
            old = held.get("bias.down", np.zeros(out, stored)).astype(np.float32)
            held["bias.down"] = (old + new).astype(stored)
        return self

    def bias(self, site: str, seed: int = 0) -> PlanMaker:
        """A random vector added to what a role gives."""
        parsed = Site.parse(site)
        held, name = self.blocks[parsed.block], f"bias.{parsed.role}"
        width, stored = held[parsed.role].shape[1], self.decoder.shape.stored
        new = np.random.default_rng([seed, 5, width]).standard_normal(width).astype(np.float32)
        self.biases.append(AddBias(parsed, width, f"{site}.bias"))
        self.arrays[f"{site}.bias"] = new
        held[name] = (held.get(name, np.zeros(width, stored)).astype(np.float32) + new).astype(stored)
        return self

    def centre(self) -> PlanMaker:
        """LayerNorms become RMS norms, block by block as it is written down; call it behind what comes before."""
        stored, n = self.decoder.shape.stored, self.decoder.shape.width
        held, branches = self._held()
        self.centrings.append(PreRmsnorm(n, *branches))
        for number in held:
            block = {name: array.astype(np.float64) for name, array in self.blocks[number].items()}
            for role, norm in (("q", 0), ("k", 0), ("v", 0), ("gate", 1), ("up", 1)):
                if role in block:
                    block[f"bias.{role}"] = block.get(f"bias.{role}", 0) + block[f"beta.{norm}"] @ block[role]
            for name in ("o", "down", "bias.o", "bias.down"):
                if name in block:
                    block[name] = block[name] @ (np.eye(n) - np.ones((n, n)) / n)
            self.blocks[number] = {name: array.astype(stored) for name, array in block.items()
                                   if not name.startswith("beta")}
        return self

    def _held(self) -> tuple[list[int], list[tuple[int, ...]]]:
        """Blocks that stay, and those of them that have each branch."""
        gone = {b for fold in self.folds for b in fold.leaving}
        held = [number for number in range(len(self.blocks)) if number not in gone]
        return held, [tuple(b for b in held if last in self.blocks[b]) for last in ("o", "down")]

    def rotate(self, seed: int = 0) -> PlanMaker:
        """The stream turned by a matrix, written down entry by entry; call it behind what comes before."""
        n = self.decoder.shape.width
        signs = np.where(np.random.default_rng([seed, n]).random(n) < 0.5, -1.0, 1.0)
        q = np.array([[signs[j] * signs[k] * (np.cos(t) + np.sin(t)) / np.sqrt(n) for k in range(n)
                       for t in [2 * np.pi * (j * k % n) / n]] for j in range(n)])
        bits = "".join("1" if sign < 0 else "0" for sign in signs) + "0" * (-n % 8)
        held, branches = self._held()
        self.rotations.append(RotateStream(n, f"{int(bits, 2):0{len(bits) // 4}x}", *branches))
        self.turn, stored = q, self.decoder.shape.stored
        for number in held:
            block, changed = self.blocks[number], dict[str, np.ndarray]()
            for role, norm in (("q", 0), ("k", 0), ("v", 0), ("gate", 1), ("up", 1)):
                if role in block:
                    changed[role] = q @ np.diag(block[f"norm.{norm}"].astype(np.float64)) @ block[role]
                    changed[f"norm.{norm}"] = np.ones(n)
            changed |= {name: block[name].astype(np.float64) @ q
                        for name in ("o", "down", "bias.o", "bias.down") if name in block}
            self.blocks[number] = {**block, **{name: array.astype(stored) for name, array in changed.items()}}
        return self

    def quantize(self, storage: FewBits) -> PlanMaker:
        """Store all that is left of the blocks, a pair factor by factor. Of float32 decoders alone."""
        gone = {b for fold in self.folds for b in fold.leaving}
        for number, block in enumerate(self.blocks):
            for role in ROLES if number not in gone else ():
                if role in block:
                    site, digest = Site(number, (role,)), WeightDigest.of(np.zeros((1, 1), np.float32))
                    if not any(site in edit.touch.writes for edit in (*self.slices, *self.edits)):
                        digest = WeightDigest.of(block[role])
                    self.stored.append(QuantizeWeight(site, block[role].shape, storage, (digest,)))
                    if not any(site in pair.parts for pair in self.factors):
                        block[role] = naive_rounded(block[role], storage)
        for site, factors in self.factors.items():
            a, b = (naive_rounded(factor, storage) for factor in factors)
            self._set(site, a.astype(np.float64) @ b.astype(np.float64))
        return self

    def hold(self, storage: FewBits, seed: int = 0) -> PlanMaker:
        """Store all that is left of the blocks, numbers and all random: a graph that rounds by itself is found out."""
        gone = {b for fold in self.folds for b in fold.leaving}
        rng, paired = np.random.default_rng(seed), {part: site for site in self.factors for part in site.parts}
        firsts = {site: self._drawn(f"{site}.A", storage, a.shape, rng) for site, (a, _) in self.factors.items()}
        columns: dict[Site, list[np.ndarray]] = {site: [] for site in self.factors}
        for number, block in enumerate(self.blocks):
            for role in ROLES if number not in gone else ():
                if role not in block:
                    continue
                site, shape = Site(number, (role,)), block[role].shape
                digest = (WeightDigest.of(block[role]),)
                if (pair := paired.get(site)) is None:
                    numbers, block[role] = self._drawn(str(site), storage, shape, rng)
                    held: tuple[Numbers, ...] = (numbers,)
                else:
                    rank = self.factors[pair][0].shape[1]
                    numbers, part = self._drawn(f"{site}.B", storage, (rank, shape[1]), rng)
                    columns[pair].append(part)
                    held = firsts[pair][0], numbers
                self.stored.append(QuantizeWeight(site, shape, storage, digest, "gptq", held))
        for site, parts in columns.items():
            self._set(site, firsts[site][1] @ np.concatenate(parts, axis=1))
        return self

    def _drawn(
        self, name: str, storage: FewBits, shape: tuple[int, int], rng: np.random.Generator
    ) -> tuple[Numbers, np.ndarray]:
        """Random numbers of a matrix [in, out], in the plan, and what they stand for."""
        (n_in, n_out), bits = shape, storage.bits
        packed, scaled, zeroed = storage.layout(shape)
        numbers = rng.integers(0, 256, packed).astype(np.uint8)
        scales = (rng.standard_normal(scaled) / (2 ** (bits - 1) * np.sqrt(n_in))).astype(np.float32)
        zeros = rng.integers(0, 256, zeroed).astype(np.uint8)
        blocks = scales.shape[1]
        middles = np.full((n_out, blocks), 2 ** (bits - 1)) if storage.symmetric else loose(zeros, bits)[:, :blocks]
        steps = loose(numbers, bits) - middles[..., None]  # [out, blocks, places]
        stored = scales.astype(self.decoder.shape.stored).astype(np.float64)
        matrix = (steps * stored[..., None]).reshape(n_out, -1)[:, :n_in].T.copy()
        names = Numbers(f"{name}.numbers", f"{name}.scales", None if storage.symmetric else f"{name}.zeros")
        found = {names.numbers: numbers, names.scales: scales, f"{name}.zeros": zeros}
        self.arrays |= {key: array for key, array in found.items() if key != f"{name}.zeros" or names.zeros}
        return names, matrix

    def tables(self, storage: FewBits, *, embedding: bool, head: bool) -> PlanMaker:
        """Store the head, the table of words, or both as one."""
        d = self.decoder
        if embedding:
            table = np.ascontiguousarray(d.embedding.T)
            self.stored.append(QuantizeEmbedding(table.shape, storage, WeightDigest.of(table), head))
            self.embedding = naive_rounded(table, storage).T
        elif head:
            self.stored.append(QuantizeHead(d.head.shape, storage, WeightDigest.of(d.head)))
        if head:
            self.head = naive_rounded(d.head, storage)
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
        self.factors[parsed] = a, b
        dtype = self.decoder.shape.stored
        self._set(parsed, a.astype(dtype).astype(np.float64) @ b.astype(dtype).astype(np.float64))
        return self

    def factor(self, of: str, rank: int, seed: int = 0) -> PlanMaker:
        """A random pair in the place of the head, the embedding or both."""
        d, dtype = self.decoder, self.decoder.shape.stored
        table = np.ascontiguousarray(d.embedding.T if of == "embedding" else d.head)
        rng = np.random.default_rng([seed, 11, rank])
        a = (rng.standard_normal((len(table), rank)) / np.sqrt(rank)).astype(np.float32)
        b = (rng.standard_normal((rank, table.shape[1])) * 0.3).astype(np.float32)
        names = (f"{of}.A", f"{of}.B")
        self.factored.append(LowRankTable(of, table.shape, rank, names, WeightDigest.of(table)))
        self.arrays |= {names[0]: a, names[1]: b}
        made = a.astype(dtype).astype(np.float64) @ b.astype(dtype).astype(np.float64)
        self.head = self.head if of == "embedding" else made
        self.embedding = self.embedding if of == "head" else made.T
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

    def share(self, block: int, of: int, roles: tuple[str, ...] = ROLES) -> PlanMaker:
        """The block reads the other's matrices, as they are; call it behind what writes those."""
        held = tuple(role for role in roles if role in self.blocks[of])
        self.shares.append(ShareWeights(block, of, held))
        self.blocks[block] |= {role: self.blocks[of][role] for role in held}
        return self

    def beside(self, site: str, rank: int, seed: int = 0) -> PlanMaker:
        """A random pair beside what is there; call it last."""
        parsed = Site.parse(site)
        weights = [self.blocks[parsed.block][role] for role in parsed.roles]
        n_in, n_out = weights[0].shape[0], sum(w.shape[1] for w in weights)
        rng = np.random.default_rng([7, seed, n_in, n_out, rank])
        a = rng.standard_normal((n_in, rank)).astype(np.float32) / np.float32(np.sqrt(n_in))
        b = rng.standard_normal((rank, n_out)).astype(np.float32) / np.float32(np.sqrt(rank))
        names = (f"{site}.beside.A", f"{site}.beside.B")
        digests = tuple(WeightDigest.of(w) for w in weights)
        self.added.append(AddLowRank(parsed, (n_in, n_out), rank, names, digests))
        self.arrays |= {names[0]: a, names[1]: b}
        dtype = self.decoder.shape.stored
        pair = a.astype(dtype).astype(np.float64) @ b.astype(dtype).astype(np.float64)
        self._set(parsed, np.concatenate(weights, axis=1).astype(np.float64) + pair)
        return self

    def _set(self, site: Site, whole: np.ndarray) -> None:
        start = 0
        for role in site.roles:
            width = self.blocks[site.block][role].shape[1]
            self.blocks[site.block][role] = whole[:, start : start + width]
            start += width

    def plan(self) -> Plan:
        """The plan."""
        reading = (*self.folds, *self.drops, *self.biases, *self.centrings, *self.rotations, *self.shares)
        read = {str(part) for edit in reading for part in edit.touch.reads}
        weights = {site: WeightDigest.of(block[role]) for b, block in enumerate(self.decoder.blocks)
                   for role in self.decoder.shape.roles if (site := f"block.{b:02d}.{role}") in read}
        source = Source("tiny", self.config_sha256, "LlamaForCausalLM", self.decoder.shape.blocks, weights)
        document = PlanDocument(source, None, (), {}, {},
                                (*self.folds, *self.drops, *self.slices, *self.biases, *self.centrings,
                                 *self.rotations, *self.edits, *self.factored, *self.shares, *self.stored, *self.added))
        return Plan(document, self.arrays)

    def expected(self) -> Decoder:
        """What the compressed graph must compute."""
        gone = {b for fold in self.folds for b in fold.leaving}
        d = self.decoder
        blocks = [block for i, block in enumerate(self.blocks) if i not in gone and {"o", "down"} & set(block)]
        shape = replace(d.shape, layer="") if self.centrings else d.shape
        return Decoder(shape, blocks, self.head, self.embedding, d.norm, turn=self.turn, beta=d.beta,
                       centred=bool(self.centrings))


def nth(packed: np.ndarray, place: int, bits: int) -> int:
    """The number at a place of packed bytes."""
    each = 8 // bits
    return int(packed[place // each]) >> bits * (place % each) & 2**bits - 1


def loose(packed: np.ndarray, bits: int) -> np.ndarray:
    """All numbers of packed bytes [..., bytes], as `nth` gives each."""
    numbers = packed[..., None].astype(np.int64) >> bits * np.arange(8 // bits) & 2**bits - 1
    return numbers.reshape(*packed.shape[:-1], -1)


def naive_rounded(weight: np.ndarray, storage: FewBits) -> np.ndarray:
    """What symmetric few bits can say of W [in, out]: the largest magnitude of a block is the end of the range."""
    found, half = weight.copy(), 2 ** (storage.bits - 1)
    for start in range(0, len(weight), storage.block_size):
        values = weight[start : start + storage.block_size]
        scales = (values[np.abs(values).argmax(axis=0), np.arange(values.shape[1])] / -half).astype(np.float32)
        steps = values * (1 / np.where(scales, scales, 1).astype(np.float32)) + half
        steps = np.clip(np.trunc(steps + np.copysign(0.5, steps)), 0, 2 * half - 1) - half
        found[start : start + storage.block_size] = np.where(scales, steps * scales, values)
    return found
