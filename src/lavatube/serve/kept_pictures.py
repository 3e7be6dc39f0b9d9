"""Pictures that a later request may mean by naming an earlier one: by name, each once, the longest unused forgotten."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

MIB: Final = 1024 * 1024


class KeptPictures:
    """data: URLs by name, of at most `max_bytes` together."""

    def __init__(self, max_bytes: int = 64 * MIB) -> None:
        self._max_bytes = max_bytes
        self._urls: OrderedDict[str, str] = OrderedDict()
        self.size_bytes = 0

    def keep(self, pictures: Mapping[str, str]) -> None:
        for name, url in pictures.items():
            if self.find(name) is None:
                self._urls[name] = url
                self.size_bytes += len(url)
        while self.size_bytes > self._max_bytes:
            _, url = self._urls.popitem(last=False)
            self.size_bytes -= len(url)

    def find(self, name: str) -> str | None:
        """Being asked for makes it the last to be forgotten."""
        url = self._urls.get(name)
        if url is not None:
            self._urls.move_to_end(name)
        return url
