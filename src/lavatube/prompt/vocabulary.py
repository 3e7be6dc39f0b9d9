"""Token ids → the bytes of text that each stands for, read off the decoder that tokenizer.json names.

A table, so that text can be put together token by token and still be exactly what the whole would decode to. Serves
the two kinds there are in this field, byte-level and SentencePiece's; another decoder is refused at start-up.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from lavatube.errors import UnsupportedCheckpoint

_BYTE_TOKEN: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_alphabet() -> dict[str, int]:
    """The visible character that stands for each byte. Source: GPT-2's bytes_to_unicode."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + place): byte for place, byte in enumerate(hidden)}


_BYTES: Final = _byte_alphabet()


class Vocabulary:
    """What each id decodes to. `num_stripped_spaces` is how many leading spaces the whole text loses."""

    def __init__(
        self, tokens: Mapping[int, str], silent_ids: frozenset[int], decoder: Mapping[str, Any] | None
    ) -> None:
        piece, self.num_stripped_spaces = _read_decoder(decoder)
        self.size = max(tokens, default=-1) + 1
        self._pieces = [
            b"" if token_id in silent_ids or token_id not in tokens else piece(tokens[token_id])
            for token_id in range(self.size)
        ]
        self.longest_piece_bytes = max(map(len, self._pieces), default=1)

    def decode(self, token_id: int) -> bytes:
        """The bytes of one token; nothing for control tokens and for ids that no token has."""
        return self._pieces[token_id] if 0 <= token_id < self.size else b""


def _read_decoder(decoder: Mapping[str, Any] | None) -> tuple[Callable[[str], bytes], int]:
    """How a token becomes bytes, and how many leading spaces go. Raises UnsupportedCheckpoint."""
    match decoder:
        case {"type": "ByteLevel"}:
            return _byte_level_piece, 0
        case {"type": "Sequence", "decoders": [{"type": "ByteLevel"}, *rest]}:
            return _byte_level_piece, _num_stripped(rest)
        case {"type": "Sequence", "decoders": [replace, {"type": "ByteFallback"}, {"type": "Fuse"}, *rest]}:
            return _fallback_piece(replace), _num_stripped(rest)
        case _:
            kind = decoder.get("type") if decoder else None
            raise UnsupportedCheckpoint(f"tokenizer.json: a decoder of type {kind!r} is not served by this version.")


def _byte_level_piece(token: str) -> bytes:
    """Added tokens may hold characters outside the byte alphabet; those stand for themselves."""
    codes = [_BYTES.get(char) for char in token]
    if None in codes:
        return token.encode()
    return bytes(code for code in codes if code is not None)


def _fallback_piece(replace: Mapping[str, Any]) -> Callable[[str], bytes]:
    match replace:
        case {"type": "Replace", "pattern": {"String": str(pattern)}, "content": str(content)}:
            pass
        case _:
            raise UnsupportedCheckpoint("tokenizer.json: the decoder replaces something other than a string.")

    def piece(token: str) -> bytes:
        byte = _BYTE_TOKEN.fullmatch(token)
        return bytes([int(byte[1], 16)]) if byte else token.replace(pattern, content).encode()

    return piece


def _num_stripped(steps: Sequence[Mapping[str, Any]]) -> int:
    match steps:
        case []:
            return 0
        case [{"type": "Strip", "content": " ", "start": int(start), "stop": 0}]:
            return start
        case _:
            raise UnsupportedCheckpoint("tokenizer.json: the decoder has steps that are not served by this version.")
