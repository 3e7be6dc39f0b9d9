"""A folder that looks like the finished set while weights are still coming in, so that an engine can begin with it.

Its files are the parts themselves, under a second name that stays when a part becomes a blob; beside each lies its map,
for `arrival.py`. Made as soon as the small files are verified and every header is here. Knows no torch.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence

from lavatube.checkpoint.parts import read_parts
from lavatube.errors import OperatorError
from lavatube.weights.cache import Cache
from lavatube.weights.download import Download
from lavatube.weights.headers import read_header
from lavatube.weights.options import Provisioned
from lavatube.weights.order import FIRST, Rank, rank_chunks
from lavatube.weights.parts import cache_border
from lavatube.weights.source import Source

logger = logging.getLogger(__name__)


def can_be_staged(source: Source) -> bool:
    """Whether its weights are plain safetensors; what is put together from parts is loaded when all of it is here."""
    weights = [file.path for file in source.files if file.path.endswith((".safetensors", ".bin"))]
    names = [path for path in weights if path.startswith("model") and path.endswith(".safetensors")]
    is_known = all(file.sha256 for file in source.files if file.path in names)
    return bool(names) and names == weights and is_known and not source.is_archive


class Staging:
    """One attempt to show a set early; `announce` is told of it."""

    def __init__(
        self, source: Source, cache: Cache, announce: Callable[[Provisioned], None], digests: Mapping[str, str]
    ) -> None:
        """`digests` has the sha256 of files that are in the cache and whose source knows none."""
        self.is_over = not can_be_staged(source)
        self._source = source
        self._cache = cache
        self._announce = announce
        self._digests = digests
        self._folder = cache.staged / secrets.token_hex(16)

    def offer(self, downloads: Sequence[Download]) -> list[list[Rank]] | None:
        """Called until it succeeds or `is_over`; then, for each download, when each of its chunks is needed."""
        if not all(_is_begun(download) for download in downloads):
            return None
        try:
            with cache_border(f"{self._folder} can't be written"):
                self._folder.mkdir(parents=True)
                self._place(downloads)
            ranks = [self._rank(download) for download in downloads]
            is_whole = not read_parts(self._folder).missing
        except OperatorError as error:
            logger.info("the weights are loaded when all of them are here: %s", error.message)
            is_whole = False
        self.is_over = True
        if not is_whole:
            self.discard()
            return None
        digests = {download.file.path: download.sha256 for download in downloads}
        manifest = self._source.manifest({**self._digests, **digests})
        self._announce(
            Provisioned(
                self._folder, manifest.set_digest, self._source.trust, manifest.total_bytes, False, self._source.uri
            )
        )
        return ranks

    def discard(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _place(self, downloads: Sequence[Download]) -> None:
        """Raises: OSError where there are no hard links."""
        under_way = {download.file.path: download for download in downloads}
        for file in self._source.files:
            place = self._folder / file.path
            place.parent.mkdir(parents=True, exist_ok=True)
            download = under_way.get(file.path)
            if download is None or download.is_finished:
                sha256 = download.sha256 if download else file.sha256 or self._digests[file.path]
                os.link(self._cache.find_blob(sha256), place)
            else:
                download.part.link_to(place)

    def _rank(self, download: Download) -> list[Rank]:
        part = download.part
        if not download.file.path.endswith(".safetensors"):
            return [FIRST] * part.num_chunks
        return rank_chunks(read_header(self._folder / download.file.path), part.size, part.chunk_bytes)


def _is_begun(download: Download) -> bool:
    """Whether a file is here, as far as its tensors' names go; of a file without tensors all of it."""
    if download.is_finished or not download.file.path.endswith(".safetensors"):
        return download.is_finished
    if not (download.part.size and download.is_usable(0)):
        return False
    start = download.part.read(0, min(8, download.part.size), memoryview(bytearray(8)))
    length = int.from_bytes(next(start), "little")
    last_chunk = min(8 + length, download.part.size) // download.part.chunk_bytes
    return all(download.is_usable(chunk) for chunk in range(min(last_chunk + 1, download.part.num_chunks)))
