"""Which bytes of a checkpoint are needed first: its tensors in the order in which a forward pass reads them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Protocol

Rank = tuple[int, int]
"""A stage of the forward pass and a layer of it; smaller is needed earlier."""


class Placed(Protocol):
    """A tensor, and between which bytes of its file it lies."""

    @property
    def name(self) -> str: ...

    @property
    def start(self) -> int: ...

    @property
    def stop(self) -> int: ...


_LAYER: Final = re.compile(r"\blayers\.(\d+)\.")
_STAGES: Final = (
    (re.compile(r"vision_(tower|model)"), 1),
    (re.compile(r"projector|image_newline"), 2),
    (re.compile(r"embed_tokens"), 3),
    (_LAYER, 4),
    (re.compile(r"lm_head"), 6),
)
_TOWER_BEFORE_LAYERS: Final = re.compile(r"vision.*(embeddings|pre_layrnorm)")
_LAST_NORM_STAGE: Final = 5
FIRST: Final[Rank] = (0, 0)
DIRECTORY_BYTES: Final = 64 * 1024


def rank(name: str) -> Rank:
    """When the tensor of this name is needed; names are those of either layout."""
    layer = _LAYER.search(name)
    number = int(layer[1]) + 1 if layer else (0 if _TOWER_BEFORE_LAYERS.search(name) else 1_000)
    stage = next((stage for pattern, stage in _STAGES if pattern.search(name)), _LAST_NORM_STAGE)
    return stage, number


def rank_chunks(places: Sequence[Placed], size: int, chunk_bytes: int) -> list[Rank]:
    """When each chunk of a file is needed first; the header, before any tensor."""
    unused: Rank = (_STAGES[-1][1] + 1, 0)
    ranks = [unused] * -(-size // chunk_bytes)
    for place in places:
        needed = rank(place.name)
        for chunk in range(place.start // chunk_bytes, -(-place.stop // chunk_bytes)):
            ranks[chunk] = min(ranks[chunk], needed)
    ranks[0] = FIRST
    return ranks


def tail_bytes(path: str) -> int:
    """How much of a file's end is needed to know its tensors, beside its beginning; of a file of torch, enough."""
    return DIRECTORY_BYTES if path.endswith(".bin") else 0
