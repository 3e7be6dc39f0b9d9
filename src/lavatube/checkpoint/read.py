"""A checkpoint's config files in, a ModelSpec out, with the reason of every decision.

Facts come from the files, never from a folder's name. Reads JSON and the chat template, nothing else: no torch, no
weights. A combination that this version can't serve is refused with what is missing.
"""

from __future__ import annotations

from pathlib import Path

from lavatube.checkpoint.files import Folder, Section
from lavatube.checkpoint.hf import read_hf
from lavatube.checkpoint.original import read_original
from lavatube.checkpoint.parts import is_original
from lavatube.errors import UnsupportedCheckpoint
from lavatube.spec import ModelSpec


def read_spec(folder: Path) -> ModelSpec:
    """Decide what the checkpoint in `folder` is.

    Raises: UnsupportedCheckpoint, with the file and key that stand in the way.
    """
    files = Folder(folder)
    if not files.has("config.json"):
        raise UnsupportedCheckpoint("There is no config.json in the checkpoint's folder.")
    config = files.json("config.json")
    _check_readable(config)
    return read_original(files) if is_original(config) else read_hf(files)


def _check_readable(config: Section) -> None:
    if "auto_map" in config:
        raise UnsupportedCheckpoint(
            "config.json names code of its own (auto_map), which is never run.",
            remedy="Use a checkpoint in a layout that needs no remote code.",
        )
    if "quantization_config" in config:
        raise UnsupportedCheckpoint(
            "config.json has a quantization_config; this version reads float32, float16 and bfloat16 weights.",
            remedy="Use the checkpoint that this one was quantized from.",
        )
