"""A Hugging Face Hub of this machine: what huggingface_hub asks for when a repository is made and committed to."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

TOKEN = "hf_allowed"


class FakeHub(ThreadingHTTPServer):
    """Repositories by name, each a mapping from paths to contents; `broken` answers 500 to every commit."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.blobs: dict[str, bytes] = {}
        self.broken = False

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, status: int, content: object = None, **headers: str) -> None:
        data = json.dumps(content if content is not None else {}).encode()
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _allowed(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self._answer(401, {"error": "Invalid credentials"})
        return False

    def do_GET(self) -> None:
        name = "/".join(self.path.partition("?")[0].split("/")[3:5])
        files = self.server.repositories.get(name)
        if files is None:
            self._answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            return
        if "/tree/" in self.path:
            tree = [{"type": "file", "path": path, "size": len(data), "oid": "0" * 40} for path, data in files.items()]
            self._answer(200, tree)
            return
        about = {"id": name, "sha": "1" * 40, "private": self.server.private.get(name, False)}
        self._answer(200, {**about, "siblings": [{"rfilename": path} for path in files]})

    def do_PUT(self) -> None:
        self.server.blobs[self.path.rpartition("/")[2]] = self._body()
        self._answer(200)

    def do_POST(self) -> None:
        body = self._body()
        path = self.path.partition("?")[0]
        if path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif not self._allowed():
            pass
        elif path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization', 'me')}/{asked['name']}"
            self.server.repositories[name] = {".gitattributes": b""}
            self.server.private[name] = asked.get("visibility") == "private" or bool(asked.get("private"))
            self._answer(200, {"url": f"{self.server.address}/{name}", "id": name})
        elif "/preupload/" in path:
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            self._answer(200, {"files": modes})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**each, "actions": {"upload": {"href": f"{self.server.address}/blob/{each['oid']}", "header": {}}}}
                for each in json.loads(body)["objects"]
            ]
            self._answer(200, {"objects": objects, "transfer": "basic"})
        elif "/commit/" in path:
            self._commit("/".join(path.split("/")[3:5]), body)
        else:
            self._answer(404, {"error": path})

    def _commit(self, name: str, body: bytes) -> None:
        if self.server.broken:
            self._answer(500, {"error": "the disk is on fire"})
            return
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.server.repositories[name][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del self.server.repositories[name][value["path"]]
            elif line["key"] == "lfsFile":
                self.server.repositories[name][value["path"]] = self.server.blobs[value["oid"]]
        commit = "2" * 40
        self._answer(200, {"commitUrl": f"{self.server.address}/{name}/commit/{commit}", "commitOid": commit})


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """One that runs inside the block."""
    with FakeHub() as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
