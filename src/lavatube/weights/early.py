"""What shows a set while it is fetched, as the fetch sees it; staging.py is one, which most fetches do without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lavatube.weights.download import Download
from lavatube.weights.order import Rank


class Early(Protocol):
    """Shows what is here to whoever wants to begin with it."""

    is_over: bool

    def offer(self, downloads: Sequence[Download]) -> list[list[Rank]] | None: ...

    def close(self) -> None: ...
