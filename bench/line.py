"""A server whose line gives so many bytes a second in all, however many connections share it: the bottleneck itself.

Files of one folder over HTTP/1.1 with ranges and keep-alive; bytes go from the page cache to the socket in the kernel.
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

PIECE = 256 * 1024
BURST_S = 0.05


class Line:
    """Grants bytes to whoever sends, in the order in which they ask, so that the sum keeps to the rate."""

    def __init__(self, rate_bytes_s: float) -> None:
        self._rate_bytes_s = rate_bytes_s
        self._lock = threading.Lock()
        self._free_at_s = time.monotonic()

    def take(self, count: int) -> None:
        """Sleeps until it is these bytes' turn."""
        with self._lock:
            now_s = time.monotonic()
            self._free_at_s = max(self._free_at_s, now_s - BURST_S) + count / self._rate_bytes_s
            wait_s = self._free_at_s - now_s
        if wait_s > 0:
            time.sleep(wait_s)


@contextmanager
def serve_folder(folder: Path, rate_bytes_s: float) -> Iterator[str]:
    """Gives the root's URL."""
    line = Line(rate_bytes_s)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

        def do_GET(self) -> None:
            path = folder / self.path.partition("?")[0].lstrip("/")
            if not path.is_file():
                self.send_error(404)
                return
            size = path.stat().st_size
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            start, stop = (int(asked[1]), min(int(asked[2]) + 1, size)) if asked else (0, size)
            self.send_response(206 if asked else 200)
            self.send_header("Content-Length", str(stop - start))
            if asked:
                self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
            self.end_headers()
            self.wfile.flush()
            with path.open("rb") as file:
                while start < stop:
                    count = min(PIECE, stop - start)
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
