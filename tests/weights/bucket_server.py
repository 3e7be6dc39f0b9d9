"""A small server that speaks S3 on loopback: GET, HEAD, ranges and ListObjectsV2 of one bucket that is a folder.

What it says to GET and HEAD is also what Google's and Azure's storage say.
"""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.loopback import WEIGHTS, Gone, LoopbackHandler, LoopbackServer, Request

KEY, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"


class BucketServer(LoopbackServer):
    """Has the files of `folder` as `models/…` of any bucket. A private one wants a signature of `KEY`."""

    def __init__(self, folder: Path, *, is_private: bool = False) -> None:
        self.handler = _BucketHandler
        super().__init__()
        self.folder = folder
        self.is_private = is_private
        self.breaks: list[str] = []
        """Keys whose next range breaks off in the middle."""
        self.slots: threading.BoundedSemaphore | None = None
        """How many ranges of shards are given at once, and slowly; None: any."""
        self.is_trickling = False
        """Whether of a shard a byte comes now and then."""


class _BucketHandler(LoopbackHandler):
    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        bucket = self.server.owner
        assert isinstance(bucket, BucketServer)
        url = urlsplit(self.path)
        key = unquote(url.path).removeprefix("/").partition("/")[2]
        bucket.log.requests.append(Request("", key, None, dict(self.headers)))
        if bucket.is_private and f"Credential={KEY}/" not in self.headers.get("Authorization", ""):
            self.reply(403, {}, b"<Error><Code>AccessDenied</Code></Error>")
        elif "list-type" in parse_qs(url.query):
            self._list(bucket, parse_qs(url.query).get("prefix", [""])[0])
        else:
            self._object(bucket, key)

    def _list(self, bucket: BucketServer, prefix: str) -> None:
        entries = "".join(
            f"<Contents><Key>models/{escape(path.name)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>&quot;{_etag(path)}&quot;</ETag><Size>{path.stat().st_size}</Size></Contents>"
            for path in sorted(bucket.folder.iterdir())
            if f"models/{path.name}".startswith(prefix)
        )
        body = f'<?xml version="1.0"?><ListBucketResult><Name>bucket</Name>{entries}</ListBucketResult>'
        self.reply(200, {"Content-Type": "application/xml"}, body.encode())

    def _object(self, bucket: BucketServer, key: str) -> None:
        path = bucket.folder / key.removeprefix("models/")
        if not key.startswith("models/") or not path.is_file():
            self.reply(404, {}, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        data = path.read_bytes()
        headers = {"ETag": f'"{_etag(path)}"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        if self.command == "HEAD":
            self.reply(200, headers | {"Content-Length": str(len(data))})
            return
        asked = self.headers.get("Range")
        if asked is None:
            self.reply(200, headers, data)
            return
        first, _, last = asked.removeprefix("bytes=").partition("-")
        piece = data[int(first) : int(last) + 1]
        headers["Content-Range"] = f"bytes {first}-{int(first) + len(piece) - 1}/{len(data)}"
        if key in bucket.breaks:
            bucket.breaks.remove(key)
            self.reply(206, headers | {"Content-Length": str(len(piece))}, piece[: len(piece) // 2])
            self.close_connection = True
            raise Gone
        if bucket.is_trickling and key.endswith(WEIGHTS):
            self.send_response(206)
            for name, value in (headers | {"Content-Length": str(len(piece))}).items():
                self.send_header(name, value)
            self.end_headers()
            for byte in piece:
                self.pour(bytes([byte]), pause_s=0.05)
        if bucket.slots is not None and key.endswith(WEIGHTS):
            self._reply_to_a_few(bucket, bucket.slots, headers, piece)
        else:
            self.reply(206, headers, piece)

    def _reply_to_a_few(
        self, bucket: BucketServer, slots: threading.BoundedSemaphore, headers: dict[str, str], piece: bytes
    ) -> None:
        if not slots.acquire(blocking=False):
            bucket.log.counts["refused"] += 1
            self.reply(503, {}, b"<Error><Code>SlowDown</Code></Error>")
            return
        try:
            bucket.closing.wait(0.2)
            self.reply(206, headers, piece)
        finally:
            slots.release()


def _etag(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
