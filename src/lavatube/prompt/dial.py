"""A URL's host → a connection to an address of it that was checked: one resolution, and no second one anywhere.

A server that calls what strangers name is a way into its own network. So a name is resolved once, refused if any of its
addresses is not public, and dialled at the address that was checked. No proxies. What the operator lists by name is
trusted, and may be private. Knows neither pictures nor webhooks: who calls says in its own words what was refused.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Final

from lavatube.errors import InvalidImageUrl, InvalidSetting
from lavatube.prompt.urls import DEFAULT_PORTS, Target, is_public, parse_url

logger = logging.getLogger(__name__)

RESOLVE_LIMIT_S: Final = 3.0
CONNECT_LIMIT_S: Final = 3.0

Resolve = Callable[[str], Sequence[str]]
Dial = Callable[[str, int, float], socket.socket]


def resolve_host(host: str) -> list[str]:
    """All addresses of a name, as the system's resolver orders them. Raises OSError."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def dial_address(address: str, port: int, timeout_s: float) -> socket.socket:
    """A TCP connection. Raises OSError."""
    return socket.create_connection((address, port), timeout_s)


class Reason(Enum):
    """Why a host is not called."""

    OFF = auto()
    NOT_LISTED = auto()
    PORT = auto()
    NO_DOMAIN = auto()
    NOT_PUBLIC = auto()
    NOT_FOUND = auto()


class Refused(Exception):
    """A host that is not called. Whoever asked says so in its own words."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.name)
        self.reason = reason


class Dialer:
    """Connects to where the operator allows it.

    `policy` is "public" (any public address, ports 80 and 443), "off", or host names with commas between them, each
    with or without a port; a listed host may be private. `setting` is the name of the setting that it comes from.
    Any thread may call.
    """

    def __init__(
        self, policy: str, setting: str, *, resolve: Resolve = resolve_host, dial: Dial = dial_address
    ) -> None:
        self._is_public = policy == "public"
        self._hosts = frozenset() if policy in ("public", "off") else _read_hosts(policy, setting)
        self._resolve = resolve
        self._dial = dial
        self._tls = ssl.create_default_context()

    @property
    def is_off(self) -> bool:
        return not self._is_public and not self._hosts

    def is_listed(self, target: Target) -> bool:
        """Whether the operator trusts this host by name."""
        return not {(target.host, None), (target.host, target.port)}.isdisjoint(self._hosts)

    def check(self, target: Target) -> None:
        """What can be told before the name is resolved. Raises: Refused."""
        is_listed = self.is_listed(target)
        if self.is_off:
            raise Refused(Reason.OFF)
        if not is_listed and not self._is_public:
            raise Refused(Reason.NOT_LISTED)
        is_usual_port = target.port in DEFAULT_PORTS.values()
        if not is_usual_port and (target.host, target.port) not in self._hosts:
            raise Refused(Reason.PORT)
        if is_listed:
            return
        if target.address is None and "." not in target.host:
            raise Refused(Reason.NO_DOMAIN)
        if target.address is not None and not is_public(target.address):
            logger.warning("refused to call %s", target.host)
            raise Refused(Reason.NOT_PUBLIC)

    def addresses(self, target: Target, deadline: float) -> list[str]:
        """Where the target may be dialled: every address of it was checked. Raises: Refused."""
        self.check(target)
        if target.address is not None:
            return [str(target.address)]
        addresses = self._resolve_within(target.host, min(RESOLVE_LIMIT_S, deadline - time.monotonic()))
        is_allowed = self.is_listed(target) or all(is_public(ipaddress.ip_address(address)) for address in addresses)
        if not is_allowed:
            logger.warning("refused to call %s: it is at %s", target.host, ", ".join(addresses))
            raise Refused(Reason.NOT_PUBLIC)
        return addresses

    def connect(self, target: Target, addresses: Sequence[str], deadline: float) -> socket.socket:
        """A connection to the first address that answers, with TLS for https. Raises OSError."""
        line = self._dial_first(addresses, target.port, deadline)
        if target.scheme == "http":
            return line
        try:
            line.settimeout(remaining(deadline))
            return self._tls.wrap_socket(line, server_hostname=target.host)
        except BaseException:
            line.close()
            raise

    def _dial_first(self, addresses: Sequence[str], port: int, deadline: float) -> socket.socket:
        for address in addresses[:-1]:
            with contextlib.suppress(OSError):
                return self._dial(address, port, min(CONNECT_LIMIT_S, remaining(deadline)))
        return self._dial(addresses[-1], port, min(CONNECT_LIMIT_S, remaining(deadline)))

    def _resolve_within(self, host: str, limit_s: float) -> list[str]:
        """The system's resolver can't be interrupted; its thread is left behind when it takes too long."""
        found: queue.SimpleQueue[list[str]] = queue.SimpleQueue()

        def look_up() -> None:
            with contextlib.suppress(OSError, UnicodeError):
                found.put(list(self._resolve(host)))
            found.put([])

        threading.Thread(target=look_up, name=f"resolve {host}", daemon=True).start()
        try:
            addresses = found.get(timeout=max(limit_s, 0.001))
        except queue.Empty:
            addresses = []
        if not addresses:
            raise Refused(Reason.NOT_FOUND)
        return addresses


def remaining(deadline: float) -> float:
    """Seconds left; a `recv` or `sendall` may use them up. Raises TimeoutError."""
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s


def _read_hosts(policy: str, setting: str) -> frozenset[tuple[str, int | None]]:
    """The operator's list: (host, None) for its usual ports, (host, port) for one more."""
    hosts: set[tuple[str, int | None]] = set()
    for entry in policy.split(","):
        try:
            target = parse_url(f"http://{entry.strip()}")
        except InvalidImageUrl:
            raise InvalidSetting(
                f"{setting}: {entry.strip()!r} is no host, nor a host and a port.",
                remedy="It is public, off, or host names with commas between them.",
            ) from None
        has_port = target.port != DEFAULT_PORTS["http"]
        hosts.add((target.host, target.port if has_port else None))
    return frozenset(hosts)
