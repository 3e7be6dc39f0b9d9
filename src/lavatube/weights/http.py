"""GET over the standard library's HTTP client: keep-alive, ranges, redirects by hand. URLs in, bodies out.

Bulk bytes go from the socket straight into the caller's buffer. No proxies, no cookies, nothing from the environment.
Headers that carry a secret go to the one origin they were given for. Every failure of the network leaves here as
`Transient`, every final answer as `SourceUnavailable`. Knows no digests and no hub.
"""

from __future__ import annotations

import http.client
import ssl
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, urljoin, urlsplit

from lavatube.errors import SourceUnavailable
from lavatube.weights.body import Body, receive, transient, version_of
from lavatube.weights.dial import Connection, Origin, dial, is_loopback, may_redirect, origin_of, redact, resolve
from lavatube.weights.options import Policy
from lavatube.weights.patience import Crowded, Patience, Transient, check_rate, parse_retry_after
from lavatube.weights.source import Probe

MAX_REDIRECTS: Final = 5
_REDIRECTS: Final = {301, 302, 303, 307, 308}
_PASSING: Final = {408, 425, 429, 500, 502, 503, 504}
_CROWDED: Final = {429, 503}
_AGENT: Final = "lavatube"
_REMEDY: Final = "Check the address, and what its server says."


@dataclass(frozen=True, slots=True)
class HttpAccess:
    """Whom the operator configured: the root that files lie under, and what is sent to it."""

    root: str
    policy: Policy
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    allow_http: bool = False


class HttpClient:
    """One keep-alive connection an origin; for one thread. `abort` may come from another."""

    def __init__(self, access: HttpAccess) -> None:
        self._access = access
        self._origin = origin_of(access.root)
        self._connections: dict[Origin, Connection] = {}
        self._pending: tuple[Connection, http.client.HTTPResponse] | None = None
        self._is_aborted = False

    def open(self, url: str, start: int, stop: int, size: int) -> Body:
        """Ask for a range of a file of `size` bytes; a server that ignores ranges gives the whole file.

        Raises: Transient, also for a wrong range; SourceUnavailable.
        """
        response = self.get(url, {"Range": f"bytes={start}-{stop - 1}"})
        if response.getheader("Content-Encoding", "identity") != "identity":
            raise Transient("the body is compressed though it was asked for as it is")
        if response.status == 200:
            start, stop = 0, size
        elif response.status != 206 or _content_range(response) != (start, stop, size):
            raise Transient(
                f"bytes {start}-{stop - 1}/{size} were asked for, but the answer is {response.status} with "
                f"Content-Range {response.getheader('Content-Range')!r:.80}"
            )
        length = response.getheader("Content-Length")
        if length is not None and length != str(stop - start):
            raise Transient(f"Content-Length is {length:.20}, where {stop - start} bytes belong")
        assert self._pending is not None
        return Body(response, self._pending[0], start, stop, self._finish_pending)

    def probe(self, url: str) -> Probe | None:
        """How long a file is; None if there is none. Raises: Transient, SourceUnavailable."""
        response = self.get(url, {"Range": "bytes=0-0"}, is_optional=True)
        if response.status == 404:
            return None
        content_range = _content_range(response)
        length = response.getheader("Content-Length", "") if response.status == 200 else ""
        if content_range is not None:
            return Probe(content_range[2], version_of(response))
        if length.isdecimal():
            return Probe(int(length), version_of(response))
        raise SourceUnavailable(f"{redact(url)}: the server doesn't say how long the file is.", remedy=_REMEDY)

    def get(
        self, url: str, headers: Mapping[str, str] | None = None, *, is_optional: bool = False
    ) -> http.client.HTTPResponse:
        """The response of status 200 or 206 (404 too, if optional) at the end of the redirects.

        Raises: Transient, SourceUnavailable.
        """
        for hop in range(MAX_REDIRECTS + 1):
            response = self._request(url, headers or {}, hop)
            if response.status in (200, 206) or (is_optional and response.status == 404):
                return response
            if response.status not in _REDIRECTS:
                raise _refusal(response, url, hop)
            url = self._redirect(url, response.getheader("Location") or "")
        raise SourceUnavailable(f"{redact(url)}: more than {MAX_REDIRECTS} redirects.", remedy=_REMEDY)

    def close(self) -> None:
        self._finish_pending()
        for connection in self._connections.values():
            connection.close()

    def abort(self) -> None:
        """End what another thread is doing with this client: its next read fails."""
        self._is_aborted = True
        for connection in list(self._connections.values()):
            connection.abort()

    def _request(self, url: str, headers: Mapping[str, str], hop: int) -> http.client.HTTPResponse:
        self._finish_pending()
        parts = urlsplit(url)
        sent = {"User-Agent": _AGENT, "Accept-Encoding": "identity", **headers}
        if origin_of(url) == self._origin:
            sent |= self._access.secrets
        try:
            connection = self._connect(url, hop)
            connection.request("GET", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""), headers=sent)
            response = connection.getresponse()
        except ssl.SSLCertVerificationError as error:
            raise SourceUnavailable(
                f"{redact(url)}: the server's certificate is not trusted: {error.verify_message.rstrip('.')}.",
                remedy="Have the server's certificate mended, or its authority trusted by this machine.",
            ) from error
        except (OSError, http.client.HTTPException) as error:
            self._drop(origin_of(url))
            raise transient(error) from error
        self._pending = connection, response
        return response

    def _connect(self, url: str, hop: int) -> Connection:
        origin = origin_of(url)
        if origin not in self._connections:
            addresses = resolve(origin)
            if hop and not may_redirect(resolve(self._origin), addresses):
                raise SourceUnavailable(f"{redact(url)}: redirected to an address that is not public.", remedy=_REMEDY)
            self._connections[origin] = dial(origin, addresses, self._access.policy)
        if self._is_aborted:
            raise Transient("aborted")
        return self._connections[origin]

    def _finish_pending(self) -> None:
        """A connection whose last body was not read to its end can't be used again."""
        if self._pending is not None:
            connection, response = self._pending
            self._pending = None
            if not response.isclosed():
                response.close()
                connection.close()

    def _drop(self, origin: Origin) -> None:
        connection = self._connections.pop(origin, None)
        if connection is not None:
            connection.close()

    def _redirect(self, url: str, location: str) -> str:
        """Where a redirect leads, if it may be followed. Raises: SourceUnavailable."""
        was, now = urlsplit(url), _join(url, location)
        if now is None or now.scheme not in ("http", "https") or not now.hostname or "@" in now.netloc:
            raise SourceUnavailable(f"{redact(url)}: redirected to something that is no http(s) URL.", remedy=_REMEDY)
        if now.scheme == "http" and was.scheme == "https":
            raise SourceUnavailable(f"{redact(url)}: redirected from https to http, which is refused.", remedy=_REMEDY)
        if now.scheme == "http" and not (self._access.allow_http or is_loopback(now.hostname)):
            raise SourceUnavailable(f"{redact(url)}: redirected to plain http, which is refused.", remedy=_REMEDY)
        return now.geturl()


def read_document(access: HttpAccess, url: str, max_bytes: int) -> tuple[bytes, str] | None:
    """A small file and its `Link` header; None if there is none. Tries again as `access.policy` says.

    Raises: SourceUnavailable.
    """
    patience = Patience(redact(url), access.policy)
    with closing(HttpClient(access)) as client:
        while True:
            try:
                response = client.get(url, is_optional=True)
                if response.status == 404:
                    return None
                data = _read(response, max_bytes + 1, access.policy)
                if len(data) <= max_bytes:
                    if response.length:
                        raise Transient("the body ended early")
                    return data, response.getheader("Link") or ""
                raise SourceUnavailable(
                    f"{redact(url)} is longer than {max_bytes} bytes, which no such file is.", remedy=_REMEDY
                )
            except Transient as error:
                patience.fail(error)
            except (OSError, http.client.HTTPException) as error:
                patience.fail(transient(error))


def _join(url: str, location: str) -> SplitResult | None:
    """None for a `Location` that is no URL."""
    try:
        parts = urlsplit(urljoin(url, location))
        is_clean = location.isascii() and location.isprintable() and " " not in location
        return parts if parts.port != 0 and is_clean else None
    except ValueError:
        return None


def _read(response: http.client.HTTPResponse, most: int, policy: Policy) -> bytes:
    """A small body, up to so many bytes. Raises: Transient."""
    data, buffer, begun_s = bytearray(), memoryview(bytearray(64 * 1024)), time.monotonic()
    while len(data) < most and (count := receive(response, buffer[: most - len(data)])):
        data += buffer[:count]
        check_rate(policy, len(data), time.monotonic() - begun_s)
    return bytes(data)


def _content_range(response: http.client.HTTPResponse) -> tuple[int, int, int] | None:
    """First byte, one past the last, and the file's length; None unless the header says all three."""
    unit, _, rest = (response.getheader("Content-Range") or "").partition(" ")
    span, _, size = rest.partition("/")
    first, _, last = span.partition("-")
    if unit != "bytes" or not all(
        part.isascii() and part.isdecimal() and len(part) < 19 for part in (first, last, size)
    ):
        return None
    return int(first), int(last) + 1, int(size)


def _refusal(response: http.client.HTTPResponse, url: str, hop: int) -> Exception:
    status = response.status
    if status in _PASSING:
        return (Crowded if status in _CROWDED else Transient)(
            f"status {status}", parse_retry_after(response.getheader("Retry-After"))
        )
    if hop and status in (401, 403):
        return Transient(f"status {status} after a redirect, whose signature may have expired")
    remedy = _REMEDY
    if status in (401, 403):
        remedy = "Check the address, and whether it needs a token (HF_TOKEN for a gated model on the hub)."
    elif status == 416:
        remedy = "The file is shorter than its manifest says; write the manifest again with `lavatube lock`."
    return SourceUnavailable(f"{redact(url)}: status {status}.", remedy=remedy)
