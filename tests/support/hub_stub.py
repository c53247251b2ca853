"""The Hub's HTTP API as huggingface_hub's upload speaks it, over a folder in memory: create, list, LFS, commit."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_stub"
OID = "c" * 40


class Hub:
    """Repositories by id, each its files by path; `commits` as they came."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.commits: list[dict[str, Any]] = []
        self.objects: dict[str, bytes] = {}
        self.url = ""


@contextmanager
def running() -> Iterator[Hub]:
    """A hub that listens on this machine."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def answer(self, status: int, value: Any = None) -> None:
            data = json.dumps(value).encode() if value is not None else b""
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                data = b""
                while size := int(self.rfile.readline(), 16):
                    data += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return data
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def do_POST(self) -> None:
            data = self.body()
            if self.path == "/api/validate-yaml":
                self.answer(200, {"errors": [], "warnings": []})
            elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self.answer(401, {"error": "no token"})
            elif self.path == "/api/repos/create":
                asked = json.loads(data)
                repo = "/".join(filter(None, (asked.get("organization"), asked["name"])))
                hub.repos.setdefault(repo, {".gitattributes": b"*.data filter=lfs"})
                self.answer(200, {"url": f"{hub.url}/{repo}", "name": repo, "id": repo})
            elif "/preupload/" in self.path:
                files = json.loads(data)["files"]
                self.answer(200, {"files": [{"path": f["path"], "shouldIgnore": False, "oid": None, "uploadMode":
                                             "lfs" if f["path"].endswith((".onnx", ".data")) else "regular"}
                                            for f in files]})
            elif self.path.endswith("/info/lfs/objects/batch"):
                self.answer(200, {"transfer": "basic", "objects": [
                    {"oid": o["oid"], "size": o["size"], "authenticated": True,
                     "actions": {"upload": {"href": f"{hub.url}/lfs/{o['oid']}"}}}
                    for o in json.loads(data)["objects"]]})
            elif "/commit/" in self.path:
                repo = self.path.removeprefix("/api/models/").partition("/commit/")[0]
                lines = [json.loads(line) for line in data.splitlines()]
                hub.commits.append({"repo": repo, "path": self.path, **lines[0]["value"]})
                for line in lines[1:]:
                    self.change(hub.repos[repo], line["key"], line["value"])
                self.answer(200, {"commitUrl": f"{hub.url}/{repo}/commit/{OID}", "commitOid": OID,
                                  "pullRequestUrl": f"{hub.url}/{repo}/discussions/1"
                                  if "create_pr=1" in self.path else None})
            else:
                self.answer(404, {"error": self.path})

        def change(self, files: dict[str, bytes], key: str, value: dict[str, Any]) -> None:
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = hub.objects[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]

        def do_PUT(self) -> None:
            data = self.body()
            oid = self.path.removeprefix("/lfs/")
            if hashlib.sha256(data).hexdigest() == oid:
                hub.objects[oid] = data
            self.answer(200 if oid in hub.objects else 400)

        def do_GET(self) -> None:
            repo = self.path.removeprefix("/api/models/").partition("/tree/")[0].partition("/revision/")[0]
            if repo not in hub.repos:
                self.answer(404, {"error": "no such repository"})
            elif "/tree/" in self.path:
                self.answer(200, [{"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
                                  for name, data in hub.repos[repo].items()])
            else:
                self.answer(200, {"id": repo, "sha": OID, "siblings": [{"rfilename": n} for n in hub.repos[repo]]})

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
