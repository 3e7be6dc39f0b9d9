"""A server whose line gives so many bytes a second: in all, however many connections share it, or to each of them.

The first is the bottleneck itself, the second what a CDN does. Files of one folder over HTTP/1.1 with ranges and
keep-alive, and as the files of a hub's repository; bytes go from the page cache to the socket in the kernel.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from bench.hub import COMMIT, RESOLVED, describe
from lavatube.weights.manifest import Manifest

PIECE = 256 * 1024
BURST_S = 0.05


class Line:
    """Grants bytes to whoever sends, in the order in which they ask, so that the sum keeps to the rate."""

    def __init__(self, rate_bytes_s: float) -> None:
        """0: as fast as it goes."""
        self._rate_bytes_s = rate_bytes_s
        self._lock = threading.Lock()
        self._free_at_s = time.monotonic()

    def take(self, count: int) -> None:
        """Sleeps until it is these bytes' turn."""
        if not self._rate_bytes_s:
            return
        with self._lock:
            now_s = time.monotonic()
            self._free_at_s = max(self._free_at_s, now_s - BURST_S) + count / self._rate_bytes_s
            wait_s = self._free_at_s - now_s
        if wait_s > 0:
            time.sleep(wait_s)


@contextmanager
def serve_folder(manifest: Manifest, folder: Path, rate_bytes_s: float, connection_bytes_s: float = 0) -> Iterator[str]:
    """Gives the root's URL. A rate of 0 is no limit."""
    line, answers = Line(rate_bytes_s), describe(manifest)
    etags = {file.path: f'"{file.sha256}"' for file in manifest.files}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            self.own = Line(connection_bytes_s)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            asked = self.path.partition("?")[0]
            answer = next((answer for path, answer in answers.items() if asked.startswith(path)), None)
            if answer is not None:
                self._say(answer.encode())
                return
            resolved = RESOLVED.fullmatch(asked)
            path = folder / (resolved[1] if resolved else asked.lstrip("/"))
            if path.is_file():
                self._send(path)
            else:
                self.send_error(404)

        def _say(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _send(self, path: Path) -> None:
            size = path.stat().st_size
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            start, stop = (int(asked[1]), min(int(asked[2] or size) + 1, size)) if asked else (0, size)
            self.send_response(206 if asked else 200)
            self.send_header("Content-Length", str(stop - start))
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", etags.get(path.name, path.name))
            if asked:
                self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
            self.end_headers()
            self.wfile.flush()
            if self.command == "GET":
                self._pour(path, start, stop)

        def _pour(self, path: Path, start: int, stop: int) -> None:
            with path.open("rb") as file:
                while start < stop:
                    count = min(PIECE, stop - start)
                    self.own.take(count)
                    line.take(count)
                    start += os.sendfile(self.connection.fileno(), file.fileno(), start, count)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
