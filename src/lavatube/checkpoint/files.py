"""The config files of a checkpoint's folder as checked values: every refusal names the file and the key.

Bounded: no file is read that is larger than a config can be, and no number is believed that no model could have.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lavatube.errors import UnsupportedCheckpoint

MAX_FILE_BYTES: Final = 16 << 20
MAX_COUNT: Final = 1 << 24
"""Of anything: a float32 position is exact up to here, and no width or vocabulary comes near it."""

MAX_NUMBER: Final = 1e30
"""Far below where a whole number no longer becomes a float."""


@dataclass(frozen=True, slots=True)
class Section:
    """A JSON object and where it stands: `config.json`, `config.json: vision_config`."""

    where: str
    values: Mapping[str, object]

    def __bool__(self) -> bool:
        return bool(self.values)

    def __contains__(self, key: object) -> bool:
        return key in self.values

    def get(self, key: str, default: object = None) -> object:
        """The value, or the default where it is missing or null."""
        value = self.values.get(key)
        return default if value is None else value

    def name(self, key: str) -> str:
        """How a message calls a key: the file, then the path."""
        return f"{self.where}.{key}" if ": " in self.where else f"{self.where}: {key}"

    def section(self, key: str) -> Section:
        """The object under a key; where there is none, an empty one."""
        value = self.get(key, {})
        if not isinstance(value, dict):
            raise UnsupportedCheckpoint(f"{self.name(key)} is not an object.")
        return Section(self.name(key), value)

    def count(self, key: str, default: int, most: int = MAX_COUNT) -> int:
        """A whole number from 1 to `most`."""
        value = self.get(key, default)
        if type(value) is not int or value < 1:
            raise UnsupportedCheckpoint(f"{self.name(key)} = {value!r:.80} is not a positive whole number.")
        if value > most:
            raise UnsupportedCheckpoint(
                f"{self.name(key)} = {value!r:.80} is beyond {most}, the most that is served.",
                remedy="Put in the number that the checkpoint was published with.",
            )
        return value

    def number(self, key: str, default: float) -> float:
        """A positive number."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < MAX_NUMBER:
            raise UnsupportedCheckpoint(f"{self.name(key)} = {value!r:.80} is not a positive number.")
        return float(value)

    def flag(self, key: str, *, default: bool) -> bool:
        """True or false."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise UnsupportedCheckpoint(f"{self.name(key)} = {value!r:.80} is neither true nor false.")
        return value

    def one_of(self, key: str, default: str, served: Collection[str]) -> str:
        """One of the served words."""
        value = self.get(key, default)
        if not isinstance(value, str) or value not in served:
            raise UnsupportedCheckpoint(
                f"{self.name(key)} = {value!r:.80} is not served by this version; {', '.join(sorted(served))} is."
            )
        return value


class Folder:
    """The files of a checkpoint."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def has(self, name: str) -> bool:
        return (self.path / name).is_file()

    def json(self, name: str) -> Section:
        """The JSON object in a file; an empty one where there is no such file."""
        data = self._read(name)
        try:
            value = json.loads(data) if data is not None else {}
        except (ValueError, RecursionError) as error:
            raise UnsupportedCheckpoint(f"{name} is not JSON: {error}.") from error
        if not isinstance(value, dict):
            raise UnsupportedCheckpoint(f"{name} is not a JSON object.")
        return Section(name, value)

    def text(self, name: str) -> str | None:
        """The text in a file; None where there is no such file."""
        data = self._read(name)
        try:
            return data.decode() if data is not None else None
        except UnicodeDecodeError as error:
            raise UnsupportedCheckpoint(f"{name} is not UTF-8.") from error

    def _read(self, name: str) -> bytes | None:
        try:
            with (self.path / name).open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UnsupportedCheckpoint(f"{name} can't be read: {error.strerror}.") from error
        if len(data) > MAX_FILE_BYTES:
            raise UnsupportedCheckpoint(f"{name} is larger than the {MAX_FILE_BYTES >> 20} MiB that are read of it.")
        return data
