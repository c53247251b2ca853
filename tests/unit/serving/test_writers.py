"""Writers: so many texts at once, so many more that wait, all of a request or none, and an end when nobody listens."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from foldrank.verbs.serving.writers import Closed, Full, Job, Writers

PATIENCE_S = 20


class Word:
    token, text = 7, "w"


class Told:
    """Who hears of one job, and a model that writes a word whenever it is let."""

    def __init__(self, words: int = 3) -> None:
        self.heard: list[Any] = []
        self.ended, self.began, self.let = threading.Event(), threading.Event(), threading.Semaphore(0)
        self.written = 0
        self.job = Job(lambda: self.write(words), self.hear)

    def hear(self, said: Any) -> None:
        self.heard.append(said)
        if not isinstance(said, Word):
            self.ended.set()

    def write(self, words: int) -> Iterator[Word]:
        self.began.set()
        for _ in range(words):
            assert self.let.acquire(timeout=PATIENCE_S)
            self.written += 1
            yield Word()

    def go(self, words: int = 100) -> None:
        self.let.release(words)


@pytest.fixture
def writers() -> Iterator[Writers]:
    made = Writers(threads=1, waiting=2)
    yield made
    assert made.close()


def test_what_has_no_room_is_refused_whole(writers: Writers) -> None:
    first, second, third, fourth = (Told() for _ in range(4))
    writers.submit([first.job])
    assert first.began.wait(PATIENCE_S)
    writers.submit([second.job])
    with pytest.raises(Full):
        writers.submit([third.job, fourth.job])
    assert (writers.running, writers.waiting) == (1, 1)
    writers.submit([third.job])
    for told in (first, second, third):
        told.go()
        assert told.ended.wait(PATIENCE_S)
        assert [type(said) for said in told.heard] == [Word, Word, Word, type(None)]
    assert fourth.heard == []


def test_a_cancelled_text_ends_before_its_next_word_and_makes_room(writers: Writers) -> None:
    running, waiting, after = Told(words=1000), Told(), Told()
    writers.submit([running.job, waiting.job, after.job])
    running.go(1)
    assert running.began.wait(PATIENCE_S)
    waiting.job.cancel()
    running.job.cancel()
    for told in (running, after):
        told.go()
    assert after.ended.wait(PATIENCE_S)
    assert running.written <= 2
    assert waiting.heard == []
    assert not waiting.began.is_set()


def test_a_fault_is_told_and_the_thread_goes_on(writers: Writers) -> None:
    def fail() -> Iterator[Word]:
        raise RuntimeError("broken")
        yield

    broken = Told()
    writers.submit([Job(fail, broken.hear)])
    assert broken.ended.wait(PATIENCE_S)
    assert [str(said) for said in broken.heard] == ["broken"]
    next_one = Told()
    next_one.go()
    writers.submit([next_one.job])
    assert next_one.ended.wait(PATIENCE_S)


def test_nothing_is_taken_after_the_end_was_told(writers: Writers) -> None:
    running, late = Told(), Told()
    writers.submit([running.job])
    writers.refuse()
    with pytest.raises(Closed):
        writers.submit([late.job])
    running.go()
    assert running.ended.wait(PATIENCE_S)
