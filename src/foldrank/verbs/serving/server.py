"""uvicorn over an application, on a socket of ours: what was begun is finished when the server is told to end."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn

from foldrank.errors import SourceError
from foldrank.verbs.serving.app import Served, application

_SPARE = 64
"""Connections beyond the texts that there is room for: who is refused, asks for health, or listens no more."""


class _Server(uvicorn.Server):
    """Ends with code 0 when told to: uvicorn's own raises the signal once more at its end."""

    def __init__(self, config: uvicorn.Config, told: Callable[[], None]) -> None:
        super().__init__(config)
        self._told = told

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._told()
        super().handle_exit(sig, frame)


def listening(host: str, port: int) -> socket.socket:
    """A socket that clients can reach; port 0 is one that is free. Raises SourceError."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        what = f"cannot be listened on: {getattr(error, 'strerror', None) or error}"
        raise SourceError(f"{host}:{port}", what, "choose another --port or --host") from None


def run(served: Served, at: socket.socket, *, patience_s: float) -> None:
    """Answer until a signal comes; then what is being written may take `patience_s` more. To be called in the main
    thread."""
    config = uvicorn.Config(
        application(served), log_level="warning", access_log=False, lifespan="off", server_header=False,
        timeout_graceful_shutdown=max(1, round(patience_s)), limit_concurrency=served.writers.most + _SPARE)
    try:
        _Server(config, served.writers.refuse).run(sockets=[at])
    finally:
        served.writers.close()
        at.close()
