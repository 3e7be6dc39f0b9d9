"""Which files belong to a checkpoint, by their names, and which paths may be joined to a folder. Reads no file."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from lavatube.errors import InvalidManifest, SourceUnavailable, UnsupportedCheckpoint

LOCK_NAME: Final = "lavatube.lock.json"
TORCH_MODEL: Final = "pytorch_model*.bin"
WEIGHTS: Final = ("*.safetensors", TORCH_MODEL, "mm_projector.bin", "non_lora_trainables.bin", "adapter_model.bin")
CONTENT: Final = (*WEIGHTS, "*.json", "*.jinja", "*.txt", "tokenizer.model")
COMPANIONS: Final = ("vision_tower", "base")
"""Folders inside a checkpoint's for models that it is put together from."""


_SEGMENT: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,199}")


def is_content(path: str) -> bool:
    """Whether a file of this name belongs to a checkpoint; nothing else is ever fetched."""
    name = own_name(path)
    return name != LOCK_NAME and any(fnmatchcase(name, pattern) for pattern in CONTENT)


def is_weights(path: str) -> bool:
    """Whether a file of this name has tensors."""
    return any(fnmatchcase(own_name(path), pattern) for pattern in WEIGHTS)


def select_content(paths: Iterable[str], where: str) -> list[str]:
    """The files of a checkpoint's folder that are wanted, in order of their names.

    Weights that are there as safetensors are not wanted a second time, as files of torch.

    Raises: UnsupportedCheckpoint if there are no weights among them.
    """
    names = list(paths)
    wanted = sorted(name for name in names if is_content(name) and _is_in_reach(name))
    doubled = {parent_of(name) for name in wanted if fnmatchcase(own_name(name), "model*.safetensors")}
    wanted = [name for name in wanted if not (fnmatchcase(own_name(name), TORCH_MODEL) and parent_of(name) in doubled)]
    check_has_weights(wanted, names, where)
    check_paths(wanted, where)
    return wanted


def missing_weights(names: Iterable[str], where: str) -> UnsupportedCheckpoint:
    """The error for a folder without weights that can be read, with what may be done about it."""
    if any(name.endswith((".bin", ".pt", ".pth")) for name in names):
        return UnsupportedCheckpoint(
            f"{where} has its weights in files of torch, and none with a name that a checkpoint's weights have.",
            remedy=f"Use a revision or a conversion of the model that has .safetensors files, or {TORCH_MODEL}.",
        )
    return UnsupportedCheckpoint(
        f"{where} has no weights: neither .safetensors files nor {TORCH_MODEL}.",
        remedy="Check the folder or the revision.",
    )


def check_has_weights(paths: Iterable[str], names: Iterable[str], where: str) -> None:
    """Raises: UnsupportedCheckpoint, which says of `names` what may be done about it, if there are none in `paths`."""
    top = [path for path in paths if "/" not in path]
    if not any(fnmatchcase(path, pattern) for path in top for pattern in WEIGHTS):
        raise missing_weights(names, where)


def _is_in_reach(path: str) -> bool:
    return parent_of(path) in ("", *COMPANIONS)


def parent_of(path: str) -> str:
    """The folder; empty at the top."""
    return path.rpartition("/")[0]


def own_name(path: str) -> str:
    """Without the folder."""
    return path.rpartition("/")[2]


def check_paths(paths: Iterable[str], where: str) -> None:
    """Refuse paths that could leave their folder, hide, or fall on one another on any file system.

    Raises: InvalidManifest.
    """
    files: set[str] = set()
    folders: set[str] = set()
    for path in paths:
        segments = path.split("/")
        if len(segments) > 8 or not all(_SEGMENT.fullmatch(segment) for segment in segments):
            raise InvalidManifest(f"{where}: {path!r:.200} is not a safe relative path.")
        folded = [segment.lower().rstrip(".") for segment in segments]
        parents = {"/".join(folded[:depth]) for depth in range(1, len(folded))}
        name = "/".join(folded)
        if name in files or name in folders or parents & files:
            raise InvalidManifest(f"{where}: {path!r} collides with another path.")
        files.add(name)
        folders |= parents


def list_folder(folder: Path) -> list[str]:
    """The checkpoint files in a folder of this machine, and in the folders of its companions."""
    try:
        names = [path.name for path in folder.iterdir() if path.is_file()]
        for companion in COMPANIONS:
            if (folder / companion).is_dir():
                names += [f"{companion}/{path.name}" for path in (folder / companion).iterdir() if path.is_file()]
    except OSError as error:
        raise SourceUnavailable(f"{folder} can't be read: {error.strerror}.") from error
    return select_content(names, str(folder))
