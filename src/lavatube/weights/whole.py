"""What a checkpoint and the models that it is put together from become: one folder, each part in its own inside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, TypeVar

from lavatube.checkpoint.parts import BASE
from lavatube.weights.cache import Cache
from lavatube.weights.manifest import Manifest
from lavatube.weights.options import Provisioned
from lavatube.weights.source import Source

File = TypeVar("File")

TOKENIZER_FILES: Final = (
    "added_tokens.json",
    "generation_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
)
"""An adapter that brings none of these has those of its base."""


def _alone(staged: Provisioned, manifest: Manifest) -> Provisioned:
    return staged


@dataclass(frozen=True, slots=True)
class Frame:
    """The rest of the whole, all of it here, around the one set of files that is still to come.

    That set goes into `folder` of the whole; `here` are the other files, by their paths in the whole. `complete` makes
    of what is said of that set alone what will be said of the whole.
    """

    folder: str = ""
    here: Mapping[str, Path] = field(default_factory=dict)
    complete: Callable[[Provisioned, Manifest], Provisioned] = _alone

    def path(self, path: str) -> str:
        """Where in the whole a file of that set lies."""
        return f"{self.folder}/{path}" if self.folder else path


MakeFrame = Callable[[Source, Mapping[str, str], Cache], Frame | None]
"""What is around a source whose weights are still to come, but whose other files, with these digests, are here."""


def join_manifests(main: Manifest, parts: Mapping[str, Manifest]) -> Manifest:
    """That of the whole."""
    files = {file.path: file for file in main.files}
    for name, part in parts.items():
        files |= {f"{name}/{file.path}": replace(file, path=f"{name}/{file.path}") for file in part.files}
    files = {path: replace(file, path=path) for path, file in with_tokenizer(files).items()}
    listed = (replace(file, chunks=b"") for file in files.values())  # the parts' grids may differ
    return Manifest(main.name, tuple(sorted(listed, key=lambda file: file.path)))


def with_tokenizer(files: Mapping[str, File]) -> dict[str, File]:
    """The files by path, and at the top those of the base's tokenizer where there are none."""
    has_own = any(name in files for name in TOKENIZER_FILES)
    places = {} if has_own else {name: f"{BASE}/{name}" for name in TOKENIZER_FILES}
    return {name: files[place] for name, place in places.items() if place in files} | dict(files)
