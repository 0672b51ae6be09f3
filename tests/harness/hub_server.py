"""A stand-in for the Hub's API: create a repository, preupload, LFS batch and upload, commit.

Requests and shapes are those that huggingface_hub 1.33 sends and reads (hf_api.py, _commit_api.py,
lfs.py). What arrives is kept, to be looked at.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub:
    """What the server was asked and given."""

    def __init__(self, *, refuse: int | None = None, public: bool = False) -> None:
        self.refuse = refuse
        self.public = public
        self.calls: list[tuple[str, str]] = []
        self.tokens: set[str | None] = set()
        self.repositories: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self.bodies: list[bytes] = []
        self.url = ""


@contextmanager
def hub(*, refuse: int | None = None, public: bool = False) -> Iterator[Hub]:
    """A running stand-in.

    Args:
        refuse: The status with which it answers everything.
        public: The repository is there already, for all to see.
    """
    state = Hub(refuse=refuse, public=public)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(state))
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(state: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                found = b""
                while size := int(self.rfile.readline(), 16):
                    found += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return found
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def _answer(self, value: Any, status: int = 200) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _handle(self) -> None:
            body, path = self._body(), self.path.partition("?")[0]
            state.calls.append((self.command, path))
            state.bodies.append(body)
            if self.command != "PUT":  # storage gets a signed address and no token
                state.tokens.add(self.headers.get("Authorization"))
            if state.refuse:
                self._answer({"error": "refused"}, state.refuse)
            elif path == "/api/repos/create":
                state.repositories.append(json.loads(body))
                found = {"url": f"{state.url}/me/clinic", "name": "me/clinic"}
                self._answer(found, 409 if state.public else 200)
            elif "/preupload/" in path:
                self._answer({"files": [_mode(one) for one in json.loads(body)["files"]]})
            elif path.endswith("/info/lfs/objects/batch"):
                objects = [_action(state.url, one) for one in json.loads(body)["objects"]]
                self._answer({"transfer": "basic", "objects": objects})
            elif self.command == "PUT" and path.startswith("/storage/"):
                state.blobs[path.rpartition("/")[2]] = body
                self._answer({})
            elif "/commit/" in path:
                for line in map(json.loads, body.splitlines()):
                    self._take(line["key"], line["value"])
                self._answer({"commitUrl": f"{state.url}/me/clinic/commit/1", "commitOid": "1"})
            else:
                made = state.repositories and state.repositories[-1].get("visibility")
                private = made == "private" and not state.public
                about: dict[str, Any] = {"siblings": [], "id": "me/clinic", "private": private}
                self._answer(about, 200 if "/api/" in path else 404)

        def _take(self, key: str, value: dict[str, Any]) -> None:
            if key == "file":
                state.files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                blob = state.blobs[value["oid"]]
                assert hashlib.sha256(blob).hexdigest() == value["oid"]
                state.files[value["path"]] = blob

        do_GET = do_POST = do_PUT = do_HEAD = _handle  # noqa: N815 (http.server asks for these names)

    return Handler


def _mode(one: dict[str, Any]) -> dict[str, Any]:
    large = one["path"].endswith(".safetensors")
    mode = "lfs" if large else "regular"
    return {"path": one["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None}


def _action(url: str, one: dict[str, Any]) -> dict[str, Any]:
    return one | {"actions": {"upload": {"href": f"{url}/storage/{one['oid']}"}}}
