"""A `data:` URL in, its bytes out; strict base64 only. Knows no pictures."""

from __future__ import annotations

import binascii
import re
from typing import Final

from lavatube.errors import ImageTooLarge, InvalidImageUrl

_HEAD: Final = re.compile(r"data:(?:[a-z]+/[a-z0-9.+-]+)?(?:;[a-z0-9-]+=[a-z0-9.+-]+)*;base64", re.IGNORECASE)
_MAX_HEAD_CHARS: Final = 256
# Decoding holds the interpreter; in pieces, the event loop gets its turn between them. A multiple of 4 characters.
_PIECE_CHARS: Final = 1 << 20


def decode_data_url(url: str, max_bytes: int) -> bytes:
    """The bytes of `data:[type/…];base64,…`; what they are is told by them, not by the type.

    Raises: InvalidImageUrl, ImageTooLarge, without a param.
    """
    comma = url.find(",", 0, _MAX_HEAD_CHARS)
    if comma < 0 or not _HEAD.fullmatch(url, 0, comma):
        raise InvalidImageUrl(
            "The picture's data: URL is not of the form data:image/png;base64,… .",
            remedy="Its content is base64.",
        )
    if (len(url) - comma - 1) // 4 * 3 > max_bytes + 2:
        raise ImageTooLarge(f"The picture's file has more than {max_bytes} bytes.", remedy="Send a smaller one.")
    try:
        text = url[comma + 1 :].encode("ascii")
        pieces = (text[start : start + _PIECE_CHARS] for start in range(0, len(text), _PIECE_CHARS))
        data = b"".join(binascii.a2b_base64(piece, strict_mode=True) for piece in pieces)
    except ValueError:
        raise InvalidImageUrl(
            "The picture's data: URL is not base64.",
            remedy="Encode the picture's file with standard base64: padded, without line breaks.",
        ) from None
    if not data:
        raise InvalidImageUrl("The picture's data: URL is empty.", remedy="Put the picture's file after the comma.")
    return data
