"""Where a redirect may lead, and what of a URL may be shown."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from lavatube.weights.dial import is_loopback, may_redirect, origin_of, redact

PUBLIC, PRIVATE, LOOPBACK = "8.8.8.8", "10.0.0.1", "127.0.0.1"


@pytest.mark.parametrize(
    ("origin", "targets", "is_allowed"),
    [
        (PUBLIC, ["1.1.1.1"], True),
        (PUBLIC, ["2606:4700::1111"], True),
        (PUBLIC, [PRIVATE], False),
        (PUBLIC, [LOOPBACK], False),
        (PUBLIC, ["::1"], False),
        (PUBLIC, ["::ffff:127.0.0.1"], False),
        (PUBLIC, ["100.64.0.1"], False),
        (PUBLIC, ["1.1.1.1", PRIVATE], False),
        (PUBLIC, ["169.254.169.254"], False),
        (PRIVATE, [PRIVATE, LOOPBACK], True),
        (LOOPBACK, ["1.1.1.1"], True),
        (LOOPBACK, ["169.254.169.254"], False),
        (LOOPBACK, ["fe80::1"], False),
        (LOOPBACK, ["224.0.0.1"], False),
    ],
)
def test_redirects(origin: str, targets: list[str], is_allowed: bool) -> None:
    assert may_redirect([ip_address(origin)], [ip_address(target) for target in targets]) == is_allowed


def test_origin_is_scheme_host_and_port() -> None:
    assert origin_of("https://Host/x") == origin_of("https://host:443/y")
    assert len({origin_of(url) for url in ("https://h", "http://h", "https://h:8443", "https://h.h")}) == 4


def test_redact() -> None:
    assert redact("https://user:pass@host:1/a?sig=secret#f") == "https://host:1/a?…"
    assert redact("https://host/a") == "https://host/a"


def test_is_loopback() -> None:
    assert [is_loopback(host) for host in ("localhost", "127.8.8.8", "::1")] == [True] * 3
    assert not [host for host in ("localhost.example", "10.0.0.1", "example", "") if is_loopback(host)]
