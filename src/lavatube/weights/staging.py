"""A folder that looks like the finished set while weights are still coming in, so that an engine can begin with it.

Its files are the parts themselves, under a second name that stays when a part becomes a blob; beside each lies its map,
for `arrival.py`. Made as soon as the small files are verified and every tensor's place is known. Knows no torch.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lavatube.checkpoint.parts import read_parts
from lavatube.errors import OperatorError
from lavatube.weights.cache import Cache, link
from lavatube.weights.content import is_weights
from lavatube.weights.download import Download
from lavatube.weights.headers import list_tensors
from lavatube.weights.options import Provisioned
from lavatube.weights.order import FIRST, Placed, Rank, rank_chunks
from lavatube.weights.parts import cache_border
from lavatube.weights.source import Source
from lavatube.weights.staged import StagedFolder
from lavatube.weights.torch_zip import list_stored
from lavatube.weights.whole import Frame, with_tokenizer

logger = logging.getLogger(__name__)


def can_be_staged(source: Source) -> bool:
    """Whether it is known what its weights must become."""
    return not source.is_archive and all(file.sha256 for file in source.files if is_weights(file.path))


class Staging:
    """One attempt to show a set early; `announce` is told of it."""

    def __init__(
        self,
        source: Source,
        cache: Cache,
        announce: Callable[[Provisioned], None],
        digests: Mapping[str, str],
        frame: Frame,
    ) -> None:
        """`digests` has the sha256 of files that are in the cache and whose source knows none."""
        self.is_over = False
        self._source = source
        self._cache = cache
        self._announce = announce
        self._digests = digests
        self._frame = frame
        self._folder = cache.staged / secrets.token_hex(16)
        self._claim: StagedFolder | None = None
        self._is_shown = False
        self._tensors: dict[str, Sequence[Placed]] = {}

    def offer(self, downloads: Sequence[Download]) -> list[list[Rank]] | None:
        """Called until it succeeds or `is_over`; then, for each download, when each of its chunks is needed."""
        try:
            if not all(self._is_known(download) for download in downloads):
                return None
            with cache_border(f"{self._folder} can't be written"):
                self._cache.staged.mkdir(exist_ok=True)
                self._claim = StagedFolder(self._folder)
                self._place(downloads)
            is_whole = not read_parts(self._folder).missing
        except OperatorError as error:
            logger.info("the weights are loaded when all of them are here: %s", error.message)
            is_whole = False
        self.is_over = True
        if not is_whole:
            return None
        digests = {download.file.path: download.sha256 for download in downloads}
        manifest = self._source.manifest({**self._digests, **digests})
        own = Provisioned(
            self._folder, manifest.set_digest, self._source.trust, manifest.total_bytes, False, self._source.uri
        )
        self._is_shown = True
        self._announce(self._frame.complete(own, manifest))
        return [_rank(download, self._tensors[download.file.path]) for download in downloads]

    def close(self) -> None:
        """What was shown is for whoever was told of it to remove."""
        if self._claim is not None:
            if not self._is_shown:
                self._claim.remove()
            self._claim.close()

    def _is_known(self, download: Download) -> bool:
        path = download.file.path
        if path not in self._tensors and (tensors := _tensors_of(download)) is not None:
            self._tensors[path] = tensors
        return path in self._tensors

    def _place(self, downloads: Sequence[Download]) -> None:
        """Raises: OSError where there are no hard links."""
        places: dict[str, Path | Download] = dict(self._frame.here)
        under_way = {download.file.path: download for download in downloads if not download.is_finished}
        finished = {download.file.path: download.sha256 for download in downloads if download.is_finished}
        for file in self._source.files:
            sha256 = finished.get(file.path) or file.sha256 or self._digests.get(file.path, "")
            places[self._frame.path(file.path)] = under_way.get(file.path) or self._cache.find_blob(sha256)
        for path, found in with_tokenizer(places).items():
            place = self._folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(found, Path):
                link(found, place)
            else:
                found.part.link_to(place)


def _rank(download: Download, tensors: Sequence[Placed]) -> list[Rank]:
    part = download.part
    return rank_chunks(tensors, part.size, part.chunk_bytes) if tensors else [FIRST] * part.num_chunks


def _tensors_of(download: Download) -> Sequence[Placed] | None:
    """The tensors of a file that is here as far as they can be listed; None while it is not.

    A file that has none must be here as a whole.

    Raises: OperatorError.
    """
    path = download.file.path
    if not is_weights(path):
        return () if download.is_finished else None
    file = _Usable(download)
    try:
        return list_tensors(file, path) if path.endswith(".safetensors") else list_stored(file, path)
    except _NotYet:
        return None


class _NotYet(Exception):
    """What was to be read has not come."""


class _Usable:
    """A file on its way, of which what may be used can be read."""

    def __init__(self, download: Download) -> None:
        self._download = download
        self._part = download.part
        self._at = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        self._at = offset + (self._part.size if whence == os.SEEK_END else 0)
        return self._at

    def read(self, size: int, /) -> bytes:
        """Raises: _NotYet."""
        stop, grid = min(self._at + size, self._part.size), self._part.chunk_bytes
        chunks = range(self._at // grid, -(-stop // grid))
        if not (self._download.is_finished or all(self._download.is_usable(chunk) for chunk in chunks)):
            raise _NotYet
        data = self._part.peek(self._at, stop)
        self._at = stop
        return data
