"""Forms: what real clients write is read; what is broken, hostile or too much is refused."""

from __future__ import annotations

import contextlib

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavatube.errors import InvalidRequest, LavatubeError, UnsupportedMediaType
from lavatube.serve.multipart import MAX_PARTS, boundary_of, parse_form


def written_by_httpx(**files: object) -> tuple[str, bytes]:
    request = httpx.Request("POST", "http://a.test/", files=files)
    return request.headers["content-type"], request.read()


def test_what_httpx_writes_is_read() -> None:
    content = bytes(range(256)) + b"\r\n--"
    kind, body = written_by_httpx(content=('a "cat".png', content, "image/png"), metadata=(None, '{"a":1}'))
    form = parse_form(body, boundary_of(kind))
    assert form["content"].content == content
    assert form["content"].content_type == "image/png"
    assert "cat" in form["content"].filename
    assert form["metadata"].content == b'{"a":1}'
    assert form["metadata"].filename == ""


def test_an_empty_file_is_one() -> None:
    kind, body = written_by_httpx(content=("x", b"", "image/png"))
    assert parse_form(body, boundary_of(kind))["content"].content == b""


@given(st.binary(max_size=200), st.text(st.characters(codec="utf-8"), max_size=20))
def test_any_content_comes_through(content: bytes, name: str) -> None:
    kind, body = written_by_httpx(content=(name or "x", content, "a/b"))
    assert parse_form(body, boundary_of(kind))["content"].content == content


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    for text in (body, b"--b\r\n" + body + b"\r\n--b--"):
        with contextlib.suppress(LavatubeError):
            parse_form(text, b"b")


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "application/json",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + "x" * 71 + ";",
    ],
)
def test_what_is_no_form_is_refused(kind: str) -> None:
    with pytest.raises(UnsupportedMediaType):
        boundary_of(kind)


HEAD = b'--b\r\nContent-Disposition: form-data; name="content"\r\n\r\nx'


TOO_MANY = b"\r\n".join(HEAD.replace(b"content", b"%d" % n) for n in range(MAX_PARTS + 1)) + b"\r\n--b--"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b--",
        HEAD,
        HEAD + b"\r\n--b",
        HEAD + b"\r\n" + HEAD + b"\r\n--b--",
        b"--b\r\n\r\nx\r\n--b--",
        b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--",
        b'--b\r\nContent-Disposition: attachment; name="a"\r\n\r\nx\r\n--b--',
        b"--b\r\nX: " + b"y" * 3000 + b'\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n--b--',
        TOO_MANY,
    ],
)
def test_broken_forms_are_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse_form(body, b"b")


def test_many_boundaries_are_not_many_parts() -> None:
    with pytest.raises(InvalidRequest):
        parse_form(b"\r\n--b" * 1_000_000, b"b")
