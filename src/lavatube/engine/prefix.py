"""Token ids and images in, the keys of the cache blocks that they fill out. Knows no blocks and no tensors.

A block's keys and values depend on all that stands before it, so its key is a digest over its own exact contents and
the key before it: ids, and for each picture in the block which one it is and where it begins.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from typing import Final

from lavatube.engine.wire import Pixels
from lavatube.geometry import ImagePlan

KEY_BYTES: Final = 32
_PLACED: Final = struct.Struct("<q")


def image_key(salt: bytes, pixels: Pixels, plan: ImagePlan) -> bytes:
    """Names the features of one picture, for those who have the same salt."""
    return _digest(b"image", salt, pixels.digest, repr(plan).encode())


def root_key(salt: bytes) -> bytes:
    """What stands before the first block: who has another salt finds nothing of ours."""
    return _digest(b"root", salt)


def block_key(before: bytes, token_ids: Sequence[int], images: Sequence[tuple[int, bytes]]) -> bytes:
    """The key of one full block. `images` are those that have placeholders in it: where each begins, counted from the
    block's first token, and its key.
    """
    placed = b"".join(_PLACED.pack(start) + key for start, key in images)
    return _digest(before, struct.pack(f"<{len(token_ids)}q", *token_ids), placed)


def _digest(*parts: bytes) -> bytes:
    """Each part with its length, so that no two lists of parts are one text."""
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    for part in parts:
        digest.update(_PLACED.pack(len(part)))
        digest.update(part)
    return digest.digest()
