"""A request's body: JSON of bounded bytes, depth and time, and of that content type alone.

A page of another site may make a browser post text/plain to localhost, but not application/json without asking first.
"""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import Request
from starlette.requests import ClientDisconnect

from foldrank import strictjson
from foldrank.verbs.serving.asked import Refused

PATIENCE_S = 30.0
"""In which a body must have come."""


async def read(request: Request, most: int) -> Any:
    """The value of a body of at most `most` bytes. Raises Refused, ClientDisconnect."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refused("the body must be application/json", status=415)
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > most:
        raise _large(most)
    try:
        async with asyncio.timeout(PATIENCE_S):
            data = await _within(request, most)
    except TimeoutError:
        raise Refused(f"the body did not come within {PATIENCE_S:.0f} seconds", status=408) from None
    try:
        return strictjson.loads(data.decode("utf-8"))
    except (strictjson.JsonError, UnicodeDecodeError) as error:
        raise Refused(f"the body is no JSON that is read here: {error}") from None


async def gone(request: Request) -> None:
    """Returns when the client has left. Only after the body was read."""
    try:
        while (await request.receive())["type"] != "http.disconnect":
            pass
    except ClientDisconnect:
        return


async def _within(request: Request, most: int) -> bytes:
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > most:
            raise _large(most)
    return bytes(data)


def _large(most: int) -> Refused:
    return Refused(f"the body has more than {most:,} bytes", status=413)
