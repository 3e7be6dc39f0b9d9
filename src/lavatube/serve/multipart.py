"""A small multipart/form-data body, whole in memory → its parts. Strict: what browsers and clients send, nothing else.

Linear in the size of the body, which its reader has bounded; the number of parts and the size of their heads are
bounded here. Source: RFC 7578, and RFC 2046 section 5.1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from lavatube.errors import InvalidRequest, UnsupportedMediaType

MAX_PARTS: Final = 8
MAX_HEAD_BYTES: Final = 2048
_TYPE: Final = re.compile(
    r'multipart/form-data;.*?\bboundary=(?:"([^"]{1,70})"|([^\s;"]{1,70})(?=[\s;]|$))', re.IGNORECASE
)
_PARAMETER: Final = re.compile(r';\s*(name|filename)="((?:[^"\\\r\n]|\\.)*)"', re.IGNORECASE)
_REMEDY: Final = "Send multipart/form-data, as an HTML form or a client library does."


@dataclass(frozen=True, slots=True)
class Part:
    """One field of the form. `filename` is whatever its sender calls it."""

    name: str
    filename: str
    content_type: str
    content: bytes


def boundary_of(content_type: str) -> bytes:
    """Raises: UnsupportedMediaType."""
    found = _TYPE.match(content_type)
    if found is None:
        raise UnsupportedMediaType("The body must be a form.", param="content-type", remedy=_REMEDY)
    return (found[1] or found[2]).encode("latin-1")


def parse_form(body: bytes, boundary: bytes) -> Mapping[str, Part]:
    """Parts by their names. Raises: InvalidRequest."""
    pieces = (b"\r\n" + body).split(b"\r\n--" + boundary, MAX_PARTS + 2)
    if len(pieces) < 3 or len(pieces) > MAX_PARTS + 2 or not pieces[-1].startswith(b"--"):
        raise InvalidRequest("The form is not whole, or has too many parts.", remedy=_REMEDY)
    parts = [_parse_part(piece) for piece in pieces[1:-1]]
    named = {part.name: part for part in parts}
    if len(named) < len(parts):
        raise InvalidRequest("The form has two parts of one name.", remedy="Send each once.")
    return named


def _parse_part(piece: bytes) -> Part:
    head, separator, content = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
    if not separator or len(head) > MAX_HEAD_BYTES or piece[:2] != b"\r\n":
        raise InvalidRequest("A part of the form has no head, or one that is too long.", remedy=_REMEDY)
    fields: dict[str, str] = {}
    for line in head.decode("utf-8", "replace").split("\r\n"):
        name, colon, value = line.partition(":")
        if not colon:
            raise InvalidRequest("A part of the form has a malformed head.", remedy=_REMEDY)
        fields[name.strip().lower()] = value.strip()
    disposition = fields.get("content-disposition", "")
    named = {key.lower(): re.sub(r"\\(.)", r"\1", value) for key, value in _PARAMETER.findall(disposition)}
    if not disposition.lower().startswith("form-data") or "name" not in named:
        raise InvalidRequest("A part of the form has no name.", remedy=_REMEDY)
    return Part(named["name"], named.get("filename", ""), fields.get("content-type", ""), content)
