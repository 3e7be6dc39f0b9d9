"""The one model, by all names that the APIs have for it. Pure: settings in, values out."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final

from lavatube import __version__
from lavatube.errors import ModelNotFound
from lavatube.settings import Settings

DEFAULT_OWNER: Final = "lavatube"
_FULL_NAME: Final = re.compile(r"(?:hf://)?([A-Za-z0-9_.-]+)/([A-Za-z0-9_.-]+)(?:@.*)?")
_STRANGE: Final = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True, slots=True)
class ServedModel:
    """`names` are OpenAI's, the first is the one that is reported; `owner`/`name` is Replicate's.

    `weights` is the digest of their set of files, once that is known; until then the model goes by what MODEL says.
    """

    names: tuple[str, ...]
    owner: str
    name: str
    source: str
    weights: str = ""
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @classmethod
    def of(cls, settings: Settings) -> ServedModel:
        names = tuple(dict.fromkeys((settings.served_name, settings.model)))
        found = _FULL_NAME.fullmatch(settings.model_name or settings.model)
        owner, name = found.groups() if found else (DEFAULT_OWNER, _plain(settings.served_name))
        if settings.model_name and not found:
            name = _plain(settings.model_name)
        return cls(names, owner, name, settings.model)

    @property
    def full_name(self) -> str:
        return f"{self.owner}/{self.name}"

    @property
    def version(self) -> str:
        """Another one for other weights, and for another release of the server, which may answer otherwise."""
        return sha256(f"{__version__} {self.weights or self.source}".encode()).hexdigest()

    def having(self, weights: str) -> ServedModel:
        return replace(self, weights=weights)

    def check(self, owner: str, name: str, *, others: Collection[str] = ()) -> None:
        """Raises: ModelNotFound, for what is neither the model nor one of the `others`."""
        wanted = f"{owner}/{name}"
        if wanted != self.full_name and wanted not in others:
            raise self._missing("model")

    def check_version(self, version: str) -> None:
        """`version` as clients write it: an id, owner/name, or owner/name:id. Raises: ModelNotFound.

        What a client was told before the weights were there goes on being right.
        """
        ids = (self.version, self.having("").version)
        if version not in (*ids, self.full_name, *(f"{self.full_name}:{one}" for one in ids)):
            raise self._missing("version")

    def _missing(self, param: str) -> ModelNotFound:
        return ModelNotFound(
            f"There is no such {param} here.",
            param=param,
            remedy=f"This server serves {self.full_name}, version {self.version}.",
        )


def _plain(name: str) -> str:
    return _STRANGE.sub("-", name).strip("-") or "model"
