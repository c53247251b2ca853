"""The endpoint over HTTP, with a model that writes what it is told: forms, limits, refusals, clients that leave."""

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("uvicorn", reason="needs the extra serve")
import uvicorn

from foldrank.runtime.decoding.sampling import Sampling
from foldrank.verbs.serving.app import LOOPBACK, Limits, Served, application
from foldrank.verbs.serving.asked import Message, Refused
from foldrank.verbs.serving.server import listening
from foldrank.verbs.serving.writers import Writers

PATIENCE_S, END = 20, 0
TYPE = {"Content-Type": "application/json"}


class Piece:
    def __init__(self, token: int, text: str) -> None:
        self.token, self.text = token, text


class Model:
    """Writes `words`, then its end where there is room; waits before each where it is told to wait."""

    context, ends = 64, frozenset({END})

    def __init__(self) -> None:
        self.words = ["one ", "two ", "three"]
        self.asked: list[tuple[list[int], int, Sampling]] = []
        self.wait: threading.Semaphore | None = None
        self.written = 0

    def begin(self, ids: Sequence[int], *, tokens: int, sampling: Sampling) -> Iterator[Piece]:
        self.asked.append((list(ids), tokens, sampling))
        for number, word in enumerate([*self.words, ""][:tokens], start=1):
            if self.wait is not None:
                assert self.wait.acquire(timeout=PATIENCE_S)
            self.written += 1
            yield Piece(END if number > len(self.words) else number, word)


class Encoder:
    """A character is a token."""

    def prompt(self, asked: str | list[int]) -> list[int]:
        if not asked:
            raise Refused("the prompt has no tokens", param="prompt")
        return [ord(c) for c in asked] if isinstance(asked, str) else asked

    def chat(self, messages: list[Message]) -> list[int]:
        return self.prompt("".join(message.plain()["content"] for message in messages))


class Client:
    """Of one server."""

    def __init__(self, port: int, model: Model, served: Served) -> None:
        self.port, self.model, self.served = port, model, served

    def send(self, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection.request("GET" if body is None else "POST", path, data, TYPE if headers is None else headers)
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        return response.status, json.loads(text) if response.headers["content-type"] == "application/json" else text

    def chat(self, **more: Any) -> tuple[int, Any]:
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **more}
        return self.send("/v1/chat/completions", body)

    def text(self, **more: Any) -> tuple[int, Any]:
        return self.send("/v1/completions", {"model": "m", "prompt": "abc", **more})

    def leave(self, **more: Any) -> socket.socket:
        """A connection whose request was sent and whose answer nobody read yet."""
        data = json.dumps({"model": "m", "prompt": "abc", "max_tokens": 50, **more}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" \
               f"Content-Length: {len(data)}\r\n\r\n"
        made = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)
        made.sendall(head.encode() + data)
        return made

    def until(self, holds: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < end
            time.sleep(0.01)


@pytest.fixture(params=[None])
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    model, at = Model(), listening("127.0.0.1", 0)
    served = Served(name="m", model=model, encoder=Encoder(), vocabulary=500, writers=Writers(1, 2),  # type: ignore[arg-type]
                    limits=Limits(new_tokens=50, body_bytes=2000), hosts=LOOPBACK, key=request.param)
    server = uvicorn.Server(uvicorn.Config(application(served), log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [at]}, daemon=True)
    thread.start()
    made = Client(at.getsockname()[1], model, served)
    made.until(lambda: server.started)
    yield made
    server.should_exit = True
    thread.join(PATIENCE_S)
    at.close()
    assert served.writers.close()


def test_a_chat_answer_has_text_reason_and_usage(client: Client) -> None:
    status, found = client.chat(seed=5, temperature=0.5, top_p=0.9)
    [choice] = found["choices"]
    assert (status, found["object"], found["model"]) == (200, "chat.completion", "m")
    assert choice["message"] == {"role": "assistant", "content": "one two three", "refusal": None}
    assert choice["finish_reason"] == "stop"
    assert found["usage"] == {"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6}
    assert client.model.asked == [([104, 105], 50, Sampling(0.5, 500, 0.9, 5))]


def test_tokens_that_run_out_are_told(client: Client) -> None:
    _, found = client.text(max_tokens=2)
    assert [found["choices"][0][key] for key in ("text", "finish_reason")] == ["one two ", "length"]
    assert client.text(max_tokens=61)[1]["error"]["code"] == "max_tokens_exceeded"
    assert client.text(prompt="x" * 40, max_tokens=30)[1]["error"]["code"] == "context_length_exceeded"
    assert client.text(prompt="x" * 60)[0] == 200
    assert client.model.asked[-1][1] == 4  # of 16 by default


def test_a_stop_ends_the_text_before_itself(client: Client) -> None:
    _, found = client.text(stop=["o t"])
    assert [found["choices"][0][key] for key in ("text", "finish_reason")] == ["one tw", "stop"]


def test_several_prompts_and_several_texts_of_each_have_seeds_of_their_own(client: Client) -> None:
    _, found = client.text(prompt=["a", "bc"], seed=7, max_tokens=1)
    assert [choice["index"] for choice in found["choices"]] == [0, 1]
    assert found["usage"]["prompt_tokens"] == 3
    client.text(n=2, seed=7, max_tokens=1)
    assert [sampling.seed for _, _, sampling in client.model.asked] == [7, 7, 7, 8]
    assert client.text(n=4)[0] == 400  # more than there will ever be room for


def events(text: str) -> list[Any]:
    assert text.endswith("data: [DONE]\n\n")
    return [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n")[:-2]]


def test_a_stream_gives_pieces_the_reason_and_the_usage_asked_for(client: Client) -> None:
    status, text = client.chat(stream=True, stream_options={"include_usage": True})
    *chunks, usage = events(text)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert status == 200
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert [delta.get("content", "") for delta in deltas[1:]] == ["one ", "two ", "three", ""]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 4 + ["stop"]
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 4)
    assert len({chunk["id"] for chunk in chunks}) == 1
    texts = [chunk["choices"][0]["text"] for chunk in events(client.text(stream=True)[1])]
    assert "".join(texts) == "one two three"


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_its_text(stream: bool, client: Client) -> None:
    client.model.words, client.model.wait = ["w "] * 40, threading.Semaphore(0)
    connection = client.leave(stream=stream)
    client.until(lambda: client.served.writers.running == 1)
    client.model.wait.release(3)
    client.until(lambda: client.model.written == 3)
    connection.close()
    client.until(lambda: "foldrank_disconnected_total 1" in client.send("/metrics")[1])
    client.model.wait.release(100)
    client.until(lambda: client.served.writers.running == 0)
    assert client.model.written <= 5
    client.model.wait = None
    assert client.text()[0] == 200


def test_beyond_the_queue_is_429_and_what_was_taken_is_answered(client: Client) -> None:
    client.model.wait = threading.Semaphore(0)
    waiting = [client.leave() for _ in range(3)]
    client.until(lambda: client.served.writers.running + client.served.writers.waiting == 3)
    status, found = client.text()
    assert (status, found["error"]["code"], found["error"]["type"]) == (429, "queue_full", "rate_limit_error")
    client.model.wait.release(100)
    assert all(connection.recv(20).startswith(b"HTTP/1.1 200") for connection in waiting)


def test_after_the_end_was_told_nothing_is_taken(client: Client) -> None:
    assert client.send("/health") == (200, {"status": "ok"})
    client.served.writers.refuse()
    assert client.send("/health")[0] == 503
    assert client.text()[0] == 503


def test_a_text_that_fails_is_its_requests_fault_alone(client: Client) -> None:
    client.model.words = [None]  # type: ignore[list-item]
    assert client.text()[0] == 500
    status, text = client.text(stream=True)
    assert status == 200
    assert json.loads(text.split("\n\n")[-2].removeprefix("data: "))["error"]["type"] == "server_error"
    client.model.words = ["fine"]
    assert client.text()[0] == 200


@pytest.mark.parametrize(("body", "headers", "status"), [
    (b"{", TYPE, 400), (b"[1]", TYPE, 400), (b'{"model":"m","model":"m","prompt":"a"}', TYPE, 400),
    (b"[" * 500, TYPE, 400), (b"\xff", TYPE, 400), (b" " * 2001, TYPE, 413),
    (b'{"model":"m","prompt":"a"}', {"Content-Type": "text/plain"}, 415),
    (b'{"model":"x","prompt":"a"}', TYPE, 404), (b'{"model":"m","prompt":""}', TYPE, 400),
    (b'{"model":"m","prompt":"a"}', {**TYPE, "Host": "evil.example"}, 400),
])
def test_bodies_that_are_not_read(body: bytes, headers: dict[str, str], status: int, client: Client) -> None:
    assert client.send("/v1/completions", body, headers)[0] == status
    assert client.model.asked == []


def test_a_body_without_a_length_is_bounded_too(client: Client) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=PATIENCE_S)
    connection.request("POST", "/v1/completions", iter([b" " * 900] * 5), TYPE)
    assert connection.getresponse().status == 413
    connection.close()


@pytest.mark.parametrize("client", ["secret"], indirect=True)
def test_a_key_is_asked_of_whoever_wants_text(client: Client) -> None:
    assert client.text()[0] == 401
    given = {**TYPE, "Authorization": "Bearer secret"}
    assert client.send("/v1/completions", {"model": "m", "prompt": "a"}, given)[0] == 200
    assert client.send("/health")[0] == 200


def test_models_and_paths(client: Client) -> None:
    assert [one["id"] for one in client.send("/v1/models")[1]["data"]] == ["m"]
    assert client.send("/v1/models/m")[1]["max_model_len"] == 64
    assert client.send("/v1/models/x")[1]["error"]["code"] == "model_not_found"
    assert client.send("/v1/nothing")[0] == 404
    assert client.send("/docs")[0] == 404


def test_metrics_add_up(client: Client) -> None:
    client.text(), client.text(max_tokens=1), client.text(temperature=9)
    text = client.send("/metrics")[1]
    found = dict(re.findall(r"^([^#\s]+) (\S+)$", text, re.M))
    assert found['foldrank_requests_total{endpoint="text",status="200"}'] == "2"
    assert found['foldrank_requests_total{endpoint="text",status="400"}'] == "1"
    assert (found["foldrank_prompt_tokens_total"], found["foldrank_generated_tokens_total"]) == ("6", "5")
    assert found["foldrank_texts_running"] == "0"
    assert found['foldrank_request_seconds_bucket{le="+Inf"}'] == found["foldrank_request_seconds_count"] == "2"
    assert {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")} == {
        line.split()[2] for line in text.splitlines() if line.startswith("# HELP")}
