"""A small model hub on loopback: the two API endpoints, and files that redirect to another server's storage."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tests.cdn import Cdn
from tests.loopback import WEIGHTS, LoopbackHandler, LoopbackServer, Request

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_secret"


class FakeHub(LoopbackServer):
    """Has the files of `storage.folder` as `org/name`; weights lie in large-file storage.

    Other repositories, whose files are all small, are added to `others` by name; if their weights are large, too,
    `storages` says by that name where they are.
    """

    def __init__(self, storage: Cdn, *, scenario: str = "ok", is_gated: bool = False) -> None:
        self.handler = _HubHandler
        super().__init__()
        self.storage = storage
        self.scenario = scenario
        self.is_gated = is_gated
        self.others: dict[str, Path] = {}
        self.storages: dict[str, Cdn] = {}
        self.git_sha1: dict[str, str] = {}
        """Overrides what the tree says of a small file."""


class _HubHandler(LoopbackHandler):
    def do_GET(self) -> None:
        hub = self.server.owner
        assert isinstance(hub, FakeHub)
        path = self.path.partition("?")[0]
        hub.log.requests.append(Request("", path, None, dict(self.headers)))
        if hub.is_gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.reply(401, {})
        elif path in ("/api/models/org/name/revision/main", f"/api/models/org/name/revision/{COMMIT}"):
            self._reply_json({"id": "org/name", "sha": COMMIT})
        elif path == f"/api/models/org/name/tree/{COMMIT}":
            self._reply_tree(hub)
        elif path.startswith(f"/org/name/resolve/{COMMIT}/"):
            self._reply_file(hub, hub.storage, hub.storage.folder / path.rpartition("/")[2])
        elif other := next((name for name in hub.others if f"/{name}/" in path), None):
            self._reply_other(hub, other, path)
        else:
            self.reply(404, {})

    def _reply_json(self, value: object, headers: dict[str, str] | None = None) -> None:
        self.reply(200, headers or {}, json.dumps(value).encode())

    def _reply_tree(self, hub: FakeHub) -> None:
        """Two pages, as the real one cuts long lists."""
        entries = [_entry(hub, path) for path in sorted(hub.storage.folder.iterdir())]
        middle = len(entries) // 2
        if "cursor=2" in self.path:
            self._reply_json(entries[middle:])
        else:
            link = f'<{hub.root}/api/models/org/name/tree/{COMMIT}?recursive=true&cursor=2>; rel="next"'
            self._reply_json([{"type": "directory", "path": "onnx"}, *entries[:middle]], {"Link": link})

    def _reply_other(self, hub: FakeHub, repository: str, path: str) -> None:
        folder = hub.others[repository]
        if path == f"/api/models/{repository}/revision/main":
            self._reply_json({"id": repository, "sha": COMMIT})
        elif path == f"/api/models/{repository}/tree/{COMMIT}":
            has_large = repository in hub.storages
            self._reply_json([_entry(hub, file, has_large=has_large) for file in sorted(folder.iterdir())])
        else:
            self._reply_file(hub, hub.storages.get(repository), folder / path.rpartition("/")[2])

    def _reply_file(self, hub: FakeHub, storage: Cdn | None, path: Path) -> None:
        if storage is not None and path.suffix in WEIGHTS:
            self.reply(302, {"Location": f"{storage.url(hub.scenario)}/{path.name}?X-Signature=secret"})
            return
        self._reply_range(path.read_bytes())

    def _reply_range(self, data: bytes) -> None:
        start, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        extent = f"bytes {start}-{last}/{len(data)}"
        self.reply(206, {"Content-Range": extent}, data[int(start) : int(last) + 1])


def _entry(hub: FakeHub, path: Path, *, has_large: bool = True) -> dict[str, object]:
    data = path.read_bytes()
    git_sha1 = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    entry: dict[str, object] = {"type": "file", "path": path.name, "size": len(data)}
    if has_large and path.suffix in WEIGHTS:
        lfs = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
        return entry | {"oid": "0" * 40, "lfs": lfs}
    return entry | {"oid": hub.git_sha1.get(path.name, git_sha1)}
