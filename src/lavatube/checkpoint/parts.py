"""Which other models a checkpoint of the original layout is put together from, and where on this machine they lie.

The vision tower often stayed in its own repository, and an adapter or a lone projector needs the model that it was
trained on. A part lies in a folder inside the checkpoint's, or where config.json says, seen from there; provisioning
fetches what lies nowhere. Reads JSON and looks for files; opens no weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from lavatube.checkpoint.files import Folder, Section
from lavatube.errors import UnsupportedCheckpoint

TOWER: Final = "vision_tower"
BASE: Final = "base"
ADAPTER_FILES: Final = ("adapter_model.safetensors", "adapter_model.bin")
PROJECTOR_FILE: Final = "mm_projector.bin"
VIP_TOWER: Final = "clip_4layers_336"
_VIP_REPOSITORY: Final = "openai/clip-vit-large-patch14-336"
_MAX_REFERENCE: Final = 4096


@dataclass(frozen=True, slots=True)
class Part:
    """Another model: how config.json calls it, and its folder if it is here."""

    kind: Literal["vision_tower", "base"]
    reference: str
    folder: Path | None

    def require(self) -> Path:
        """The folder. Raises: UnsupportedCheckpoint if it is not here."""
        if self.folder is None:
            raise UnsupportedCheckpoint(
                f"The checkpoint needs {self.reference}, which is not here.",
                remedy=f"Put it into the folder {self.kind} beside config.json, or pull the checkpoint.",
            )
        return self.folder


@dataclass(frozen=True, slots=True)
class Parts:
    """What a checkpoint lacks in its own files.

    tower_config: where the vision tower's config files are, if anywhere; tower: where its weights are, if they are not
    the checkpoint's own.
    """

    tower_config: Part | None = None
    tower: Part | None = None
    base: Part | None = None

    @property
    def missing(self) -> tuple[Part, ...]:
        """What would have to be fetched."""
        return tuple(part for part in (self.tower, self.base) if part is not None and part.folder is None)


def is_original(config: Section) -> bool:
    """Whether config.json is one of the original layout."""
    return "mm_vision_tower" in config


def read_parts(folder: Path) -> Parts:
    """What the checkpoint in `folder` is put together from. Raises: UnsupportedCheckpoint."""
    files = Folder(folder)
    config = files.json("config.json")
    if not is_original(config):
        return Parts()
    reference = tower_reference(config)
    tower = _find(folder, TOWER, _VIP_REPOSITORY if reference == VIP_TOWER else reference)
    return Parts(tower_config=tower, tower=None if has_own_tower(config) else tower, base=_read_base(files, config))


def tower_reference(config: Section) -> str:
    """What the vision tower is called. Raises: UnsupportedCheckpoint."""
    reference = config.get("mm_vision_tower", config.get("vision_tower"))
    if not isinstance(reference, str) or not 0 < len(reference) <= _MAX_REFERENCE or "\0" in reference:
        raise UnsupportedCheckpoint(f"config.json: mm_vision_tower = {reference!r:.80} names no vision tower.")
    return reference


def has_own_tower(config: Section) -> bool:
    """Whether the weights of the tower in the checkpoint are the ones that count: only where they were trained."""
    tunable = str(config.get("mm_tunable_parts", ""))
    return config.flag("unfreeze_mm_vision_tower", default=False) or "mm_vision_tower" in tunable.split(",")


def adapter_file(folder: Path) -> Path | None:
    """The weights of a LoRA adapter, if the folder holds one."""
    return next((folder / name for name in ADAPTER_FILES if (folder / name).is_file()), None)


def _read_base(files: Folder, config: Section) -> Part | None:
    if adapter_file(files.path) is not None:
        adapter = files.json("adapter_config.json")
        return _find(files.path, BASE, _base_reference(adapter, "base_model_name_or_path"))
    if files.has(PROJECTOR_FILE) and not _has_language_model(files.path):
        return _find(files.path, BASE, _base_reference(config, "_name_or_path"))
    return None


def _base_reference(section: Section, key: str) -> str:
    reference = section.get(key, "")
    if not isinstance(reference, str) or len(reference) > _MAX_REFERENCE or "\0" in reference:
        raise UnsupportedCheckpoint(f"{section.name(key)} = {reference!r:.80} names no model.")
    return reference


def _has_language_model(folder: Path) -> bool:
    return any(any(folder.glob(pattern)) for pattern in ("model*.safetensors", "pytorch_model*.bin"))


def _find(folder: Path, kind: Literal["vision_tower", "base"], reference: str) -> Part:
    """In its own folder, or where the reference leads from the checkpoint's folder."""
    candidates = [folder / kind, *([folder / reference] if reference else [])]
    found = next((path for path in candidates if (path / "config.json").is_file()), None)
    return Part(kind, reference or f"the model that it is a {kind} of", found)
