"""Choose documents of a corpus that are like those of a target: DSIR, importance resampling on hashed n-grams.

Of every document the words and the pairs of neighbouring words are counted in hashed buckets. With p the target's
shares of the buckets and q the corpus's, a document with counts c has log weight sum_j c_j log(p_j / q_j); documents
are drawn without replacement with these weights (Gumbel top-k). Xie et al., arXiv 2302.03169; theirs are documents cut
to one length, so here the weight is that of a document's mean n-gram times LENGTH, else length alone would decide.

Axes: N documents, B buckets. Knows texts. Knows nothing of models; needs no torch.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from foldrank.plans.chats import Chat
from foldrank.plans.records import Document
from foldrank.plans.texts import Text, read_text

BUCKETS = 10_000
LENGTH = 100
"""n-grams that every document counts as, however many it has."""

_WORD = re.compile(r"\w+|[^\w\s]")


def resembling(corpus: Text, target: Text, characters: int, seed: int) -> Text:
    """Documents of the corpus like the target's, as many as hold that many characters, at least one, in the corpus's
    order; its digest is of both texts'."""
    scores = log_weights(corpus.documents, target.documents)
    drawn = np.argsort(-(scores + np.random.default_rng(seed).gumbel(size=len(scores))), kind="stable")
    lengths = np.cumsum([len(corpus.documents[i]) for i in drawn])
    chosen = sorted(drawn[: int(np.searchsorted(lengths, characters)) + 1].tolist())
    both = hashlib.sha256(f"{corpus.sha256} {target.sha256}".encode()).hexdigest()
    return Text(f"{corpus.name} like {target.name}", both, tuple(corpus.documents[i] for i in chosen), corpus.where)


def read_like(path: Path, like: Path, characters: int, seed: int) -> Text:
    """Of the documents of one file those like another's. Raises SourceError."""
    return resembling(read_text(path, "calibration"), read_text(like, "calibration"), characters, seed)


def log_weights(corpus: Sequence[Document], target: Sequence[Document]) -> np.ndarray:
    """log p(document) - log q(document) of every document of the corpus [N], p the target's n-grams, q the corpus's."""
    wanted, found = np.ones(BUCKETS), np.ones(BUCKETS)  # one each more, so that none is impossible
    for document in target:
        np.add.at(wanted, buckets(document), 1)
    rows = [buckets(document) for document in corpus]
    for row in rows:
        np.add.at(found, row, 1)
    ratio_B = np.log(wanted / wanted.sum()) - np.log(found / found.sum())
    return np.array([LENGTH * ratio_B[row].mean() if len(row) else -np.inf for row in rows])


def buckets(document: Document) -> np.ndarray:
    """The bucket of each word and each pair of neighbours."""
    text = " ".join(turn["content"] for turn in document.messages) if isinstance(document, Chat) else document
    words = _WORD.findall(text.lower())
    grams = [*words, *(f"{one} {other}" for one, other in pairwise(words))]
    return np.array([zlib.crc32(gram.encode()) % BUCKETS for gram in grams], dtype=np.int64)
