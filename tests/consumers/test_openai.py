"""The openai client (3.57) against `foldrank serve`: what it gets is what the bundle computes, alone and under load."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from continued import COUNT, PROMPT, own_tokens

from foldrank.plans.texts import load_tokenizer

openai = pytest.importorskip("openai", reason="needs the openai client: make consumers")
pytest.importorskip("fastapi")
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
REQUESTS = 12


class Server:
    """`foldrank serve`, in a process of its own."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "foldrank", "serve", "--port", "0", "--json", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        self.told: dict[str, Any] = json.loads(line)
        self.client = openai.OpenAI(base_url=self.told["url"], api_key="none", max_retries=0, timeout=60)

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(self.told["url"].removesuffix("v1") + "metrics") as answer:
            return float(next(line.split()[1] for line in answer.read().decode().splitlines()
                              if line.startswith(name + " ")))


@pytest.fixture(scope="module")
def server(dense_5m: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    template = tmp_path_factory.mktemp("template") / "chat.jinja"
    template.write_text(TEMPLATE)
    made = Server(str(dense_5m), "--name", "tiny", "--parallel", "2", "--queue", "2",
                  "--chat-template", str(template))
    yield made
    assert made.end() == 0


@pytest.fixture
def wanted(dense_5m: Path) -> str:
    return load_tokenizer(dense_5m).decode(own_tokens(dense_5m))  # type: ignore[attr-defined]


def test_completions_are_the_bundles(server: Server, wanted: str) -> None:
    found = server.client.completions.create(model="tiny", prompt=PROMPT, max_tokens=COUNT, temperature=0)
    assert found.choices[0].text == wanted
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (len(PROMPT), COUNT)
    stream = server.client.completions.create(model="tiny", prompt=PROMPT, max_tokens=COUNT, temperature=0,
                                              stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == wanted
    assert chunks[-1].usage.completion_tokens == COUNT


def test_a_chat_is_the_template_continued(server: Server) -> None:
    turns = [{"role": "system", "content": "Short."}, {"role": "user", "content": "Hi"}]
    chat = server.client.chat.completions.create(model="tiny", messages=turns, max_tokens=8, temperature=0)
    text = server.client.completions.create(model="tiny", prompt="system: Short.\nuser: Hi\nassistant:", max_tokens=8,
                                            temperature=0)
    assert chat.choices[0].message.content == text.choices[0].text
    pieces = server.client.chat.completions.create(model="tiny", messages=turns, max_tokens=8, temperature=0,
                                                   stream=True)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == text.choices[0].text
    drawn = [server.client.chat.completions.create(model="tiny", messages=turns, max_tokens=8, seed=seed)
             .choices[0].message.content for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_errors_are_the_clients_own_classes(server: Server) -> None:
    assert [model.id for model in server.client.models.list()] == ["tiny"]
    with pytest.raises(openai.NotFoundError):
        server.client.completions.create(model="other", prompt="a")
    with pytest.raises(openai.BadRequestError, match="tools is not supported"):
        server.client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "a"}],
                                              tools=[{"type": "function", "function": {"name": "f"}}])
    with pytest.raises(openai.BadRequestError, match="the model looks at"):
        server.client.completions.create(model="tiny", prompt=[5] * 5000)


def test_under_load_every_request_gets_its_text_or_a_429(server: Server, wanted: str) -> None:
    found: list[str | type[Exception]] = []

    def ask() -> None:
        try:
            found.append(server.client.completions.create(
                model="tiny", prompt=PROMPT, max_tokens=COUNT, temperature=0).choices[0].text)
        except openai.RateLimitError:
            found.append(openai.RateLimitError)

    threads = [threading.Thread(target=ask) for _ in range(REQUESTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(found) == REQUESTS
    assert set(found) <= {wanted, openai.RateLimitError}
    assert found.count(wanted) >= 4
    patient = server.client.with_options(max_retries=20)
    assert patient.completions.create(model="tiny", prompt=PROMPT, max_tokens=1).choices


def test_a_client_that_leaves_is_noticed(server: Server) -> None:
    before = server.metric("foldrank_disconnected_total")
    stream = server.client.completions.create(model="tiny", prompt="a", max_tokens=120, stream=True,
                                              extra_body={"top_k": 50})
    next(iter(stream))
    stream.close()
    end = time.monotonic() + 30
    while server.metric("foldrank_texts_running") and time.monotonic() < end:
        time.sleep(0.05)
    assert server.metric("foldrank_texts_running") == 0
    assert server.metric("foldrank_disconnected_total") >= before


def test_metrics_are_what_prometheus_reads(server: Server) -> None:
    parser = pytest.importorskip("prometheus_client.parser", reason="needs prometheus-client: make consumers")
    with urllib.request.urlopen(server.told["url"].removesuffix("v1") + "metrics") as answer:
        families = {family.name: family for family in parser.text_string_to_metric_families(answer.read().decode())}
    assert families["foldrank_requests"].type == "counter"
    assert families["foldrank_request_seconds"].type == "histogram"


def test_what_is_under_way_is_finished_when_the_end_is_told(dense_5m: Path) -> None:
    server = Server(str(dense_5m))
    stream = server.client.completions.create(model=server.told["model"], prompt="a", max_tokens=100, stream=True)
    chunks = iter(stream)
    next(chunks)
    server.process.send_signal(signal.SIGTERM)
    assert list(chunks)[-1].choices[0].finish_reason in ("length", "stop")
    assert server.process.wait(60) == 0
