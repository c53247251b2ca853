"""Random decoders of many kinds, and what they compute: a plain forward pass in float64."""

from __future__ import annotations

from dataclasses import dataclass, field

import ml_dtypes
import numpy as np

ROLES = ("q", "k", "v", "o", "gate", "up", "down")
EPSILON = 1e-6
CONTEXT = 64
NORMS = {"before": 2, "after": 2, "both": 4, "parallel": 2, "sum": 2}
"""How blocks are normed, and with how many norms: before each branch, after it, both; two branches side by side; or the
residual's sum after each branch."""


@dataclass(frozen=True)
class Shape:
    """What a decoder looks like. The genai writer knows norms before branches, gates, and biases of q, k, v alone."""

    blocks: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_size: int = 16
    width: int = 48
    mlp: int = 80
    vocab: int = 50
    packed: bool = True
    biased: bool = False
    tied: bool = True
    dtype: str = "float32"
    norms: str = "before"
    gated: bool = True
    qk_norm: bool = False
    all_biased: bool = False
    form: str = "matmul"
    """How the standard writer stores weights."""
    layer: str = ""
    """How LayerNorms are written: an `op`, merged with the sum before it where the genai writer writes it, or taken
    `apart`. Empty: norms are RMS norms, as those of q and k always are."""

    @property
    def roles(self) -> tuple[str, ...]:
        """Linears of a block."""
        return tuple(role for role in ROLES if self.gated or role != "gate")

    @property
    def biases(self) -> tuple[str, ...]:
        """Roles that have one."""
        return self.roles if self.all_biased else self.roles[:3] if self.biased else ()

    @property
    def stored(self) -> np.dtype:
        """Type of weights."""
        return np.dtype(ml_dtypes.bfloat16 if self.dtype == "bfloat16" else self.dtype)

    def linear(self, role: str) -> tuple[int, int]:
        """[in, out] of a role."""
        attention, cache = self.heads * self.head_size, self.kv_heads * self.head_size
        return {"q": (self.width, attention), "k": (self.width, cache), "v": (self.width, cache),
                "o": (attention, self.width), "gate": (self.width, self.mlp), "up": (self.width, self.mlp),
                "down": (self.mlp, self.width)}[role]


@dataclass
class Decoder:
    """Weights as stored. `blocks[i]`: roles, `bias.<role>`, `norm.<number>`, `norm.q` and `norm.k`, of LayerNorms
    `beta.<number>`; a branch without its roles adds nothing."""

    shape: Shape
    blocks: list[dict[str, np.ndarray]]
    head: np.ndarray
    embedding: np.ndarray
    norm: np.ndarray
    windows: list[int] = field(default_factory=list)
    turn: np.ndarray | None = None
    """What the stream is multiplied by before the blocks, and again behind them."""
    beta: np.ndarray | None = None
    """What the final norm adds."""
    centred: bool = False
    """Whether the mean is taken off what enters the blocks."""

    def logits(self, ids: np.ndarray) -> np.ndarray:
        """Logits [T, vocab] of one sequence, float64 throughout."""
        turn = np.eye(self.shape.width) if self.turn is None else self.turn
        x = self.embedding.astype(np.float64)[ids]
        x = (x - x.mean(-1, keepdims=True) if self.centred else x) @ turn
        for block in self.blocks:
            x = _block(x, {name: value.astype(np.float64) for name, value in block.items()}, self.shape)
        last = _normed(x @ turn, self.norm.astype(np.float64), self.beta, self.shape)
        return last @ self.head.astype(np.float64)


def _block(x: np.ndarray, w: dict[str, np.ndarray], s: Shape) -> np.ndarray:
    def norm(i: int, y: np.ndarray) -> np.ndarray:
        return _normed(y, w[f"norm.{i}"], w.get(f"beta.{i}"), s)

    match s.norms:
        case "before":
            x = x + _attention(norm(0, x), w, s)
            return x + _mlp(norm(1, x), w)
        case "after":
            x = x + norm(0, _attention(x, w, s))
            return x + norm(1, _mlp(x, w))
        case "both":
            x = x + norm(1, _attention(norm(0, x), w, s))
            return x + norm(3, _mlp(norm(2, x), w))
        case "sum":
            x = norm(0, x + _attention(x, w, s))
            return norm(1, x + _mlp(x, w))
        case _:
            return x + _attention(norm(0, x), w, s) + _mlp(norm(1, x), w)


def _normed(x: np.ndarray, gain: np.ndarray, beta: np.ndarray | None, s: Shape) -> np.ndarray:
    found = rms(x - x.mean(-1, keepdims=True) if s.layer else x, gain)
    return found if beta is None else found + beta.astype(np.float64)


def rms(x: np.ndarray, gain: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPSILON) * gain


def _linear(x: np.ndarray, w: dict[str, np.ndarray], role: str) -> np.ndarray:
    return x @ w[role] + w.get(f"bias.{role}", 0.0)


def _mlp(x: np.ndarray, w: dict[str, np.ndarray]) -> np.ndarray:
    if "down" not in w:
        return np.zeros_like(x)
    changed = _linear(x, w, "gate" if "gate" in w else "up")
    changed = changed / (1 + np.exp(-changed))
    return _linear(changed * _linear(x, w, "up") if "gate" in w else changed, w, "down")


def _attention(x: np.ndarray, w: dict[str, np.ndarray], s: Shape) -> np.ndarray:
    if "o" not in w:
        return np.zeros_like(x)
    parts = {}
    for role, heads in (("q", s.heads), ("k", s.kv_heads), ("v", s.kv_heads)):
        y = _linear(x, w, role).reshape(len(x), heads, s.head_size)
        if f"norm.{role}" in w:
            y = rms(y, w[f"norm.{role}"])
        parts[role] = y.transpose(1, 0, 2)
    q, k = (_rotate(parts[r], s) for r in "qk")
    k, v = (np.repeat(p, s.heads // s.kv_heads, axis=0) for p in (k, parts["v"]))
    scores = q @ k.transpose(0, 2, 1) / np.sqrt(s.head_size)
    scores[:, np.triu(np.ones((len(x), len(x)), bool), 1)] = -np.inf
    share = np.exp(scores - scores.max(-1, keepdims=True))
    share /= share.sum(-1, keepdims=True)
    return _linear((share @ v).transpose(1, 0, 2).reshape(len(x), -1), w, "o")


def angles(size: int, length: int) -> np.ndarray:
    return np.arange(length)[:, None] / 10000 ** (np.arange(0, size, 2) / size)[None]


def _rotate(x: np.ndarray, s: Shape) -> np.ndarray:
    """With tables of angles that are stored as weights are."""
    angle, half = angles(s.head_size, x.shape[1]), s.head_size // 2
    cos, sin = (wave(angle).astype(s.stored).astype(np.float64) for wave in (np.cos, np.sin))
    low, high = x[..., :half], x[..., half:]
    return np.concatenate([low * cos - high * sin, high * cos + low * sin], -1)


def random_decoder(shape: Shape, seed: int = 0) -> Decoder:
    """Weights large enough that every block matters."""
    rng = np.random.default_rng(seed)

    def draw(*dims: int, scale: float = 1.0, around: float = 0.0) -> np.ndarray:
        return (around + rng.standard_normal(dims) * scale).astype(shape.stored)

    blocks = []
    for _ in range(shape.blocks):
        block = {role: draw(*shape.linear(role), scale=1 / np.sqrt(shape.linear(role)[0])) for role in shape.roles}
        block |= {f"norm.{i}": draw(shape.width, scale=0.2, around=1.0) for i in range(NORMS[shape.norms])}
        block |= {f"bias.{r}": draw(shape.linear(r)[1], scale=0.3) for r in shape.biases}
        if shape.qk_norm:
            block |= {f"norm.{r}": draw(shape.head_size, scale=0.2, around=1.0) for r in "qk"}
        if shape.layer:
            block |= {f"beta.{i}": draw(shape.width, scale=0.3) for i in range(NORMS[shape.norms])}
        blocks.append(block)
    head = draw(shape.width, shape.vocab, scale=0.3)
    embedding = head.T.copy() if shape.tied else draw(shape.vocab, shape.width)
    norm = draw(shape.width, scale=0.2, around=1.0)
    beta = draw(shape.width, scale=0.3) if shape.layer else None
    return Decoder(shape, blocks, head, embedding, norm, [-1] * shape.blocks, beta=beta)
