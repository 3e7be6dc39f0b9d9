"""A real HTTP server on loopback that misbehaves on command: the scenario is the first part of the path.

`http://127.0.0.1:PORT/<scenario>/<file>` serves the files of one folder. A scenario touches files of weights only; the
manifest and the small files come as they are, so that a test says what goes wrong and where. `any-<scenario>`
touches all.
"""

from __future__ import annotations

import re
import socket
import struct
import threading
from pathlib import Path

from tests.loopback import BLOCK, WEIGHTS, Gone, LoopbackHandler, LoopbackServer, Request


class Cdn(LoopbackServer):
    """Serves `folder`; `away` is where the scenario of that name redirects to.

    Of a file that is `held` only its first range and its last bytes come before `released` is set; of one that is
    `doomed` nothing else comes at all; of one that is `slower` nothing comes before, and then it comes slowly. Of what
    is `limited` so many transfers as `slots` has go on at once.
    """

    def __init__(self, folder: Path, away: str = "", certificate: Path | None = None) -> None:
        self.handler = _CdnHandler
        super().__init__(certificate)
        self.folder = folder
        self.away = away
        self.released = threading.Event()
        self.slots = threading.BoundedSemaphore(6)

    def url(self, scenario: str) -> str:
        return f"{self.root}/{scenario}"


class _CdnHandler(LoopbackHandler):
    def do_GET(self) -> None:
        cdn = self.server.owner
        assert isinstance(cdn, Cdn)
        scenario, _, name = self.path.partition("?")[0].lstrip("/").partition("/")
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        span = (int(found[1]), int(found[2]) + 1) if found else None
        cdn.log.requests.append(Request(scenario, name, span, dict(self.headers)))
        path = cdn.folder / name
        if not path.is_file() or (scenario == "bare" and name == "lavatube.lock.json"):
            self.reply(404, {})
            return
        data = path.read_bytes()
        is_any = scenario.startswith("any-")
        kind, _, often = scenario.removeprefix("any-").partition("-")
        touches = kind != "flip" or span is None or span[0] <= len(data) // 2 < span[1]
        if (name.endswith(WEIGHTS) or is_any) and touches and self._is_due(cdn, f"{scenario} {name}", often):
            self._misbehave(cdn, kind, name, data, span)
        else:
            self._serve(data, span)

    def _is_due(self, cdn: Cdn, key: str, often: str) -> bool:
        cdn.log.counts[key] += 1
        return cdn.log.counts[key] <= {"once": 1, "twice": 2}.get(often, 1 << 30)

    def _serve(self, data: bytes, span: tuple[int, int] | None, headers: dict[str, str] | None = None) -> None:
        if span is None:
            self.reply(200, headers or {}, data)
            return
        start, stop = span[0], min(span[1], len(data))
        extent = {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"} | (headers or {})
        self.reply(206, extent, data[start:stop])

    def _misbehave(self, cdn: Cdn, kind: str, name: str, data: bytes, span: tuple[int, int] | None) -> None:
        start, stop = span or (0, len(data))
        piece = data[start : min(stop, len(data))]
        match kind:
            case "whole":
                self.reply(200, {}, data)
            case "shifted":
                self._serve(data, span, {"Content-Range": f"bytes {start + 1}-{stop}/{len(data)}"})
            case "gzip":
                self._serve(data, span, {"Content-Encoding": "gzip"})
            case "short" | "reset" | "stall":
                self._serve_half(kind, len(data), start, piece)
            case "drop":
                self.close_connection = True
            case "unsized":
                self._serve_unsized(data[:-1])
            case "offset":
                self.reply(206, {"Content-Range": f"bytes 0-{len(data) - 1}/{len(data)}"}, data)
            case "portal":
                self.reply(200, {"Content-Type": "text/html"}, b"<html>Please sign in to the network</html>")
            case "busy":
                self.reply(503, {})
            case "crowded":
                self.reply(429, {})
            case "bighead":
                self._serve(data, span, {"X-Padding": "x" * 100_000})
            case "manyheads":
                self._serve(data, span, {f"X-{number}": "x" for number in range(1000)})
            case "trickle":
                self._serve_trickle(len(data), start, piece)
            case "relapse" if start == 0:
                self._serve_half("short", len(data), start, piece)
            case "relapse":
                self._serve_trickle(len(data), 0, data, status=200)
            case "crawl":
                self._crawl(b"HTTP/1.1 206 Partial Content\r\nX-Padding: " + b"x" * 1000)
            case "late" if stop < len(data):
                self._serve(data, span)
            case "late":
                self._serve_half("stall", len(data), start, piece, share=0.99)
            case "held":
                if start > 0 and stop < len(data) - BLOCK:
                    cdn.released.wait(60)
                self._serve(data, span)
            case "doomed" if start > 0 and stop < len(data) - BLOCK:
                cdn.released.wait(60)
                self.reply(404, {})
            case "replaced":
                cdn.log.counts["replaced"] += 1
                is_new = cdn.log.counts["replaced"] > 3
                self._serve(data[::-1] if is_new else data, span, {"ETag": f'"{is_new}"'})
            case "signed":
                self._serve_signed(cdn, data, span)
            case "flip":
                middle = len(data) // 2
                self._serve(data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :], span)
            case "wrong":
                self._serve(data[::-1], span)
            case "slow":
                self._serve_slowly(len(data), start, piece, pause_s=0.02)
            case "slower":
                cdn.released.wait(60)
                self._serve_slowly(len(data), start, piece, pause_s=0.05)
            case "limited" if cdn.slots.acquire(blocking=False):
                try:
                    self._serve_slowly(len(data), start, piece, pause_s=0.05)
                finally:
                    cdn.slots.release()
            case "limited":
                cdn.log.counts["refused"] += 1
                self.reply(503, {})
            case "versions":
                self._serve(data, span, {"ETag": f'"{cdn.log.counts[f"versions {name}"]}"'})
            case "marked":
                self._serve(data, span, {"ETag": '"1"'})
            case "429" | "503":
                self.reply(int(kind), {"Retry-After": "1"})
            case "dry":
                is_dry = len(cdn.log.weights()) > int(cdn.log.requests[-1].scenario.partition("-")[2])
                self._serve(data, span) if not is_dry else self.reply(404, {})
            case "spent" if cdn.log.sent_bytes <= len(data) // 2:
                self._serve(data, span)
            case "spent":
                self.reply(404, {})
            case "401" | "403" | "404" | "416" | "500":
                self.reply(int(kind), {})
            case "away":
                self.reply(302, {"Location": f"{cdn.away}/{name}"})
            case "loop":
                self.reply(302, {"Location": self.path})
            case "file":
                self.reply(302, {"Location": "file:///etc/hostname"})
            case "garbled":
                self.reply(302, {"Location": "http://[::1"})
            case "metadata":
                self.reply(302, {"Location": "http://169.254.169.254/latest/meta-data"})
            case _:
                self._serve(data, span)

    def _serve_signed(self, cdn: Cdn, data: bytes, span: tuple[int, int] | None) -> None:
        """Every fourth signature has expired by the time that it is used."""
        cdn.log.counts["signed"] += 1
        if cdn.log.counts["signed"] % 4 and "X-Signature=secret" in self.path:
            self._serve(data, span)
        else:
            self.reply(403, {}, b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>")

    def _serve_unsized(self, body: bytes) -> None:
        """Without a length, whose end only the end of the connection tells."""
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        self.pour(body)
        self.close_connection = True

    def _serve_trickle(self, size: int, start: int, piece: bytes, status: int = 206) -> None:
        """A byte now and then: enough for no timeout of a read, and no way to an end."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(piece)))
        self.send_header("Content-Range", f"bytes {start}-{start + len(piece) - 1}/{size}")
        self.end_headers()
        for byte in piece:
            self.pour(bytes([byte]), pause_s=0.05)

    def _serve_slowly(self, size: int, start: int, piece: bytes, pause_s: float) -> None:
        self.send_response(206)
        self.send_header("Content-Length", str(len(piece)))
        self.send_header("Content-Range", f"bytes {start}-{start + len(piece) - 1}/{size}")
        self.end_headers()
        self.pour(piece, pause_s)

    def _crawl(self, head: bytes) -> None:
        """A header that never ends, a byte now and then."""
        for byte in head:
            self.pour(bytes([byte]), pause_s=0.05)

    def _serve_half(self, kind: str, size: int, start: int, piece: bytes, share: float = 0.5) -> None:
        """A body that promises all of `piece` and gives a share of it."""
        self.send_response(206)
        self.send_header("Content-Length", str(len(piece)))
        self.send_header("Content-Range", f"bytes {start}-{start + len(piece) - 1}/{size}")
        self.end_headers()
        self.pour(piece[: int((len(piece) + 1) * share)])
        if kind == "stall":
            self.server.owner.closing.wait(30)
        elif kind == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.wfile.close()
            self.rfile.close()
            self.connection.close()
        self.close_connection = True
        raise Gone
