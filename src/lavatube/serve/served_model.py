"""The one model, by all names that the APIs have for it. Pure: settings in, values out."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final

from lavatube.errors import ModelNotFound
from lavatube.settings import Settings

DEFAULT_OWNER: Final = "lavatube"
_FULL_NAME: Final = re.compile(r"(?:hf://)?([A-Za-z0-9_.-]+)/([A-Za-z0-9_.-]+)(?:@.*)?")
_STRANGE: Final = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True, slots=True)
class ServedModel:
    """`names` are OpenAI's, the first is the one that is reported; `owner`/`name` is Replicate's.

    `version` is a digest of what MODEL is called, not of its weights: clients are told it before those are there.
    """

    names: tuple[str, ...]
    owner: str
    name: str
    version: str
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @classmethod
    def of(cls, settings: Settings) -> ServedModel:
        names = tuple(dict.fromkeys((settings.served_name, settings.model)))
        found = _FULL_NAME.fullmatch(settings.model_name or settings.model)
        owner, name = found.groups() if found else (DEFAULT_OWNER, _plain(settings.served_name))
        if settings.model_name and not found:
            name = _plain(settings.model_name)
        return cls(names, owner, name, sha256(settings.model.encode()).hexdigest())

    @property
    def full_name(self) -> str:
        return f"{self.owner}/{self.name}"

    def check(self, owner: str, name: str, *, others: Collection[str] = ()) -> None:
        """Raises: ModelNotFound, for what is neither the model nor one of the `others`."""
        wanted = f"{owner}/{name}"
        if wanted != self.full_name and wanted not in others:
            raise self._missing("model")

    def check_version(self, version: str) -> None:
        """`version` as clients write it: an id, owner/name, or owner/name:id. Raises: ModelNotFound."""
        if version not in (self.version, self.full_name, f"{self.full_name}:{self.version}"):
            raise self._missing("version")

    def _missing(self, param: str) -> ModelNotFound:
        return ModelNotFound(
            f"There is no such {param} here.",
            param=param,
            remedy=f"This server serves {self.full_name}, version {self.version}.",
        )


def _plain(name: str) -> str:
    return _STRANGE.sub("-", name).strip("-") or "model"
