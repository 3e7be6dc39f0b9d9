"""A picture's URL, taken apart once and by one parser; and which addresses the public internet has.

Pure: nothing is resolved and nothing is opened. What this parser does not understand is refused, so that no other
parser further down can read it in another way.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final, Literal

from lavatube.errors import InvalidImageUrl

MAX_URL_CHARS: Final = 2048
DEFAULT_PORTS: Final = {"http": 80, "https": 443}

Address = IPv4Address | IPv6Address

_PRINTABLE: Final = re.compile(r"[!-\[\]-~]*")  # printable ASCII without space and backslash
_URL: Final = re.compile(r"(https?)://([^/?#]*)([^#]*)(?:#.*)?", re.IGNORECASE)
_AUTHORITY: Final = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?")
_LABEL: Final = re.compile(r"[a-z0-9_-]{1,63}")
_NUMERIC_LABEL: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")

_GLOBAL_UNICAST: Final = ip_network("2000::/3")
# What `ipaddress` calls global and is a tunnel, a translator, an anycast relay or documentation.
_NOT_PUBLIC: Final = tuple(
    ip_network(text) for text in ("100.64.0.0/10", "192.88.99.0/24", "2001::/32", "2002::/16", "3fff::/20")
)


@dataclass(frozen=True, slots=True)
class Target:
    """Where one request goes. `host` is lower case, an IPv6 address without its brackets; `path` has the query."""

    scheme: Literal["http", "https"]
    host: str
    port: int
    path: str

    @property
    def address(self) -> Address | None:
        """The host, if it is an address and not a name."""
        try:
            return ip_address(self.host)
        except ValueError:
            return None

    @property
    def authority(self) -> str:
        """The Host header's value."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"


def parse_url(url: str) -> Target:
    """Take an http or https URL apart. Raises InvalidImageUrl, without a param."""
    if not url[:8].lower().startswith(("http://", "https://")):  # a path, or base64 that lacks what goes before it
        raise InvalidImageUrl(
            "The picture is no http:, https: or data: URL.",
            remedy="Send the picture's file itself as data:image/png;base64,… .",
        )
    if len(url) > MAX_URL_CHARS:
        raise InvalidImageUrl(
            f"The picture's URL is longer than {MAX_URL_CHARS} characters.", remedy="Send a shorter one."
        )
    match = _URL.fullmatch(url) if _PRINTABLE.fullmatch(url) else None
    authority = _AUTHORITY.fullmatch(match[2].lower()) if match else None
    if match is None or authority is None:
        raise InvalidImageUrl(
            "The picture's URL is not a plain one.",
            remedy="User names, spaces, backslashes and characters outside ASCII are not taken.",
        )
    scheme: Literal["http", "https"] = "https" if match[1].lower() == "https" else "http"
    port = DEFAULT_PORTS[scheme] if authority[2] is None else int(authority[2])
    if not 0 < port < 65536:
        raise InvalidImageUrl("The picture's URL has no port that could be called.", remedy="Leave the port out.")
    path = match[3] if match[3].startswith("/") else "/" + match[3]
    return Target(scheme, _host(authority[1]), port, path)


def _host(text: str) -> str:
    """A canonical address or a name in the letters of the DNS; `127.1`, octal and hexadecimal spellings are neither."""
    try:
        if text.startswith("["):
            return str(IPv6Address(text[1:-1]))
        labels = text.split(".")
        if _NUMERIC_LABEL.fullmatch(labels[-1]):
            return str(IPv4Address(text))
    except ValueError:
        raise InvalidImageUrl(
            "The host of the picture's URL is not an address in its usual form.", remedy="Write it as 203.0.113.7."
        ) from None
    if len(text) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise InvalidImageUrl("The host of the picture's URL is not a name.", remedy="Check the URL.")
    return text


def is_public(address: Address) -> bool:
    """Whether an address is one host of the public internet; a tunnel's or translator's address is not."""
    if isinstance(address, IPv6Address) and (address not in _GLOBAL_UNICAST or address.scope_id is not None):
        return False
    if address.is_multicast or address.is_reserved or not address.is_global:
        return False
    return not any(address in network for network in _NOT_PUBLIC)
