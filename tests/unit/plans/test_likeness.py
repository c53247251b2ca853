"""DSIR picks what is like the target out of a mixture; the choice follows from the seed."""

from __future__ import annotations

import numpy as np

from foldrank.plans.likeness import LENGTH, log_weights, resembling
from foldrank.plans.texts import Text

SEA = ["ship", "harbour", "tide", "sail", "anchor", "wave", "gull", "rope", "deck", "storm", "captain", "mast"]
LAB = ["enzyme", "assay", "buffer", "protein", "gene", "cell", "plasmid", "culture", "pipette", "sample", "reagent",
       "primer"]
BOTH = ["the", "of", "and", "a", "in", "to", "was", "with", "for", "on", "that", "by"]


def documents(own: list[str], count: int, seed: int, length: int = 60) -> tuple[str, ...]:
    """Of words of which half are its subject's own."""
    random = np.random.default_rng(seed)
    return tuple(" ".join(random.choice(own if random.random() < 0.5 else BOTH) for _ in range(length))
                 for _ in range(count))


SEAS, LABS = documents(SEA, 40, 0), documents(LAB, 160, 1)
MIXED = tuple(np.random.default_rng(2).permutation([*SEAS, *LABS]).tolist())
CORPUS, TARGET = Text("mixed", "a" * 64, MIXED), Text("sea", "b" * 64, documents(SEA, 5, 3))


def test_documents_like_the_target_come_out_of_a_mixture() -> None:
    chosen = resembling(CORPUS, TARGET, sum(map(len, SEAS[:30])), seed=0)
    assert 28 <= len(chosen.documents) <= 33
    assert sum(document in SEAS for document in chosen.documents) >= 0.95 * len(chosen.documents)
    assert [MIXED.index(document) for document in chosen.documents] == sorted(map(MIXED.index, chosen.documents))
    assert chosen.name == "mixed like sea"


def test_without_a_difference_all_are_alike_and_none_comes_twice() -> None:
    scores = log_weights(MIXED, MIXED)
    assert np.abs(scores).max() < 0.02 * LENGTH
    chosen = [resembling(CORPUS, Text("same", "c" * 64, MIXED), 3000, seed) for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1]
    assert chosen[0].documents != chosen[2].documents
    assert all(len(set(text.documents)) == len(text.documents) for text in chosen)
    subjects = [sum(document in SEAS for document in text.documents) / len(text.documents) for text in chosen]
    assert max(subjects) < 0.6


def test_length_alone_decides_nothing() -> None:
    long, short = documents(SEA, 1, 5, 600)[0], documents(SEA, 1, 5, 60)[0]
    weights = log_weights((*MIXED, long, short), TARGET.documents)
    assert abs(weights[-1] - weights[-2]) < 0.2 * abs(weights[-1] - np.median(weights[:-2]))


def test_a_document_without_words_is_drawn_last() -> None:
    corpus = Text("odd", "d" * 64, (" \n ", *SEAS[:3]))
    assert " \n " not in resembling(corpus, TARGET, sum(map(len, SEAS[:3])) - 1, seed=0).documents
    assert len(resembling(corpus, TARGET, 10**6, seed=0).documents) == 4
    assert len(resembling(corpus, TARGET, 1, seed=0).documents) == 1
