"""One parser, and nothing that another could read differently; which addresses are public."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lavatube.errors import InvalidImageUrl
from lavatube.prompt.urls import Target, is_public, parse_url


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://example.com", Target("http", "example.com", 80, "/")),
        ("HTTPS://Example.COM/A?b=c#d", Target("https", "example.com", 443, "/A?b=c")),
        ("http://example.com?x", Target("http", "example.com", 80, "/?x")),
        ("http://example.com:8080/x", Target("http", "example.com", 8080, "/x")),
        ("https://93.184.215.14/x", Target("https", "93.184.215.14", 443, "/x")),
        ("http://[2606:2800:0:0:0:0:0:1]/x", Target("http", "2606:2800::1", 80, "/x")),
        ("http://xn--bcher-kva.example/x", Target("http", "xn--bcher-kva.example", 80, "/x")),
        ("http://127.0.0.1#@example.com/x", Target("http", "127.0.0.1", 80, "/")),
        ("http://a.b/%2e%2e/@\x7e", Target("http", "a.b", 80, "/%2e%2e/@~")),
    ],
)
def test_urls_that_are_understood(url: str, target: Target) -> None:
    assert parse_url(url) == target


@pytest.mark.parametrize(
    "url",
    [
        "",
        "cat.jpg",
        "../../etc/passwd",
        "/etc/passwd",
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "ftp://example.com/x",
        "javascript:alert(1)",
        "dict://127.0.0.1:11211/stats",
        "http+unix://%2Fvar%2Frun%2Fdocker.sock/info",
        "//example.com/x",
        "http:/example.com/x",
        "http:///x",
        "http://",
        "http://.",
        "http://..",
        "http://example..com/",
        "http://example.com./",
        "http://user@example.com/",
        "http://user:pass@example.com/",
        "http://127.0.0.1\\@example.com/x",
        "http://example.com\\@127.0.0.1/",
        "http://127.0.0.1%2f@example.com/",
        "http://exam%70le.com/",
        "http://example.com /x",
        "http://example.com/a b",
        " http://example.com/",
        "http://example.com/\r\nHost: evil",
        "http://example.com/\t",
        "http://example.com/\0",
        "http://bücher.example/",
        "http://①②⑦.0.0.1/x.png",
        "http://example。com/",
        "http://example.com:/x",
        "http://example.com:0/x",
        "http://example.com:65536/x",
        "http://example.com:80a/x",
        "http://example.com:-80/x",
        "http://127.1/",
        "http://127.0.1/",
        "http://2130706433/",
        "http://0177.0.0.1/",
        "http://127.0.0.01/",
        "http://0x7f000001/",
        "http://0x7f.1/",
        "http://127.0.0.0x1/",
        "http://169.254.43518/",
        "http://1.2.3.4.5/",
        "http://256.1.1.1/",
        "http://example.123/",
        "http://[::1%25eth0]/",
        "http://[::1/",
        "http://::1/",
        "http://[127.0.0.1]/",
        "http://[]/",
        "http://" + "a" * 64 + ".com/",
        "http://" + ".".join(["a" * 60] * 5) + "/",
        "http://example.com/" + "a" * 2048,
    ],
)
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(InvalidImageUrl):
        parse_url(url)


@given(st.from_regex(r"https?://[a-zA-Z0-9.:\[\]@\\%-]{0,20}[/?#]?[!-~]{0,8}", fullmatch=True))
@settings(deadline=None, max_examples=150)
def test_what_is_understood_reads_the_same_everywhere(url: str) -> None:
    try:
        target = parse_url(url)
    except InvalidImageUrl:
        return
    other = urlsplit(url)
    assert (other.hostname or "").lower() == target.host or ip_address(other.hostname or "") == target.address
    assert (other.port or {"http": 80, "https": 443}[target.scheme]) == target.port
    assert parse_url(target.url) == target


NOT_PUBLIC = """
    0.0.0.0 10.0.0.1 100.64.0.1 127.0.0.1 127.255.255.254 169.254.169.254 172.16.0.1 192.0.0.1 192.0.2.1 192.88.99.1
    192.168.1.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255
    :: ::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 ::ffff:0:127.0.0.1 64:ff9b::7f00:1 64:ff9b:1::7f00:1 100::1
    2001::1 2001:0:7f00:1::1 2001:db8::1 2002:7f00:1:: 3fff::1 5f00::1 fc00::1 fd00:ec2::254 fe80::1 fe80::1%eth0
    fec0::1 ff02::1 4000::1 2606:4700::1%eth0
"""


@pytest.mark.parametrize("address", NOT_PUBLIC.split())
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.215.14", "2606:4700::1111", "2a00:1450:4001::1"])
def test_addresses_that_are_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    "text", ["iVBORw0KGgoAAAANSUhEUg" * 1000, "examples/shapes.png", "file:///etc/passwd", "C:\\cat.jpg"]
)
def test_what_is_no_url_is_told_how_a_file_is_sent(text: str) -> None:
    with pytest.raises(InvalidImageUrl, match="data:image/png;base64"):
        parse_url(text)
