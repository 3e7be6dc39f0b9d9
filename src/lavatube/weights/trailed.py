"""Files that somebody uses while they come in: when the digests of the whole ones, which nobody waits for, are due."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from lavatube.weights.content import is_weights
from lavatube.weights.download import Download
from lavatube.weights.spare import Spare

SPARE: Final = 0.3
"""The idle share of the processors from which on what can wait is done at once."""


class Trailed:
    """Those of some downloads whose chunks are used as soon as they are checked."""

    def __init__(self, downloads: Sequence[Download]) -> None:
        self._files = [download for download in downloads if download.has_digests and is_weights(download.file.path)]
        self._spare = Spare()
        self.is_complete = False
        """Whether all of them are here and checked, and whoever trails is about to answer."""

    def look(self) -> None:
        """To be called again and again: as long as chunks are awaited, the rest gets what the processors have left."""
        if self._files and not self.is_complete:
            self.is_complete = all(download.is_all_usable for download in self._files)
            can_wait = not self.is_complete and self._spare.share() < SPARE
            for download in self._files:
                download.can_wait = can_wait
