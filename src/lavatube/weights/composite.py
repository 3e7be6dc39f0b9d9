"""A checkpoint as one set of named tensors, also where its files are the parts of one.

The original layout leaves its vision tower in another repository, or ships a projector alone, or a LoRA adapter: what
counts is laid over what it was trained on, under the names that a complete checkpoint would have. An adapter is added
to its base when a tensor is read; the model that runs has no trace of it.

Source: haotian-liu/LLaVA@c121f04 llava/model/builder.py; peft 0.4 `LoraLayer` for the scale.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import torch

from lavatube.checkpoint.files import Folder, Section
from lavatube.checkpoint.parts import PROJECTOR_FILE, adapter_file, is_original, read_parts
from lavatube.errors import UnsupportedCheckpoint
from lavatube.weights.tensors import Tensors, open_file, open_tensors

TRAINABLES_FILE: Final = "non_lora_trainables.bin"
TOWER_PREFIX: Final = "model.vision_tower."
_OWN_TOWER: Final = f"{TOWER_PREFIX}vision_tower.vision_model."
_OTHER_HALF: Final = re.compile(r"text_model\..*|text_projection\..*|visual_projection\..*|logit_(scale|bias)")
_LORA: Final = re.compile(r"base_model\.model\.(.+)\.lora_([AB])(?:\.default)?\.weight")
_PROJECTOR: Final = re.compile(r"(?:.*\.)?(mm_projector\..*|image_newline)")
_MAX_RANK: Final = 65_536


class TensorSource(Protocol):
    """Named tensors, read when they are asked for. Raises: UnsupportedCheckpoint if there is no such tensor."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def dtype(self, name: str) -> torch.dtype: ...

    def file(self, name: str) -> str: ...

    def tensor(self, name: str) -> torch.Tensor: ...


@dataclass(frozen=True, slots=True)
class _Delta:
    """What an adapter adds to one weight: up · down · scale."""

    down: torch.Tensor
    up: torch.Tensor
    scale: float


class Composite:
    """Layers of tensors: of equal names the one that was laid last counts."""

    def __init__(self) -> None:
        self._places: dict[str, tuple[Tensors, str]] = {}
        self._deltas: dict[str, _Delta] = {}

    def lay(self, tensors: Tensors, names: Iterable[tuple[str, str]]) -> None:
        """Put a layer on top; `names` are pairs of the name here and the name in the file."""
        self._places |= {name: (tensors, source) for name, source in names}

    def drop(self, prefix: str) -> None:
        """Leave out the tensors whose names begin so."""
        self._places = {name: place for name, place in self._places.items() if not name.startswith(prefix)}

    def add(self, name: str, delta: _Delta, file: str) -> None:
        """Raises: UnsupportedCheckpoint if what `file` has does not fit the tensor that it is added to."""
        shape = self.shape(name)
        rank = delta.down.shape[0]
        if tuple(delta.down.shape) != (rank, shape[-1]) or tuple(delta.up.shape) != (shape[0], rank) or len(shape) != 2:
            raise UnsupportedCheckpoint(
                f"{file}: its matrices for {name:.200} do not fit {list(shape)}, the shape that the base has.",
                remedy="Use the base that the adapter was trained on.",
            )
        self._deltas[name] = delta

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        tensors, source = self._find(name)
        return tensors.shape(source)

    def dtype(self, name: str) -> torch.dtype:
        tensors, source = self._find(name)
        return tensors.dtype(source)

    def file(self, name: str) -> str:
        tensors, source = self._find(name)
        return tensors.file(source)

    def tensor(self, name: str) -> torch.Tensor:
        tensors, source = self._find(name)
        stored = tensors.tensor(source)
        delta = self._deltas.get(name)
        if delta is None:
            return stored
        return stored.float() + delta.scale * (delta.up.float() @ delta.down.float())

    def _find(self, name: str) -> tuple[Tensors, str]:
        if name not in self._places:
            raise UnsupportedCheckpoint(f"The checkpoint has no tensor {name}.")
        return self._places[name]


def open_checkpoint(folder: Path) -> TensorSource:
    """All tensors of a checkpoint, whatever it is put together from.

    Raises: UnsupportedCheckpoint, DigestMismatch, both with the file's name.
    """
    files = Folder(folder)
    if not is_original(files.json("config.json")):
        return open_tensors(folder)
    parts = read_parts(folder)
    composite = Composite()
    if parts.base is None:
        _lay_model(composite, open_tensors(folder))
    else:
        _lay_model(composite, open_tensors(parts.base.require()))
        _lay_projector(composite, folder)
        _lay_adapter(composite, files)
    if parts.tower is not None:
        composite.drop(TOWER_PREFIX)
        _lay_tower(composite, open_tensors(parts.tower.require()))
    return composite


def _lay_model(composite: Composite, tensors: Tensors) -> None:
    composite.lay(tensors, ((name, name) for name in tensors.names))


def _lay_tower(composite: Composite, tensors: Tensors) -> None:
    """A CLIP or SigLIP of its own repository, of which the text's half is left out."""
    kept = [name for name in tensors.names if not _OTHER_HALF.fullmatch(name)]
    composite.lay(tensors, ((_OWN_TOWER + name.removeprefix("vision_model."), name) for name in kept))


def _lay_projector(composite: Composite, folder: Path) -> None:
    path = folder / PROJECTOR_FILE
    if path.is_file():
        tensors = open_file(path)
        composite.lay(tensors, ((_projector_name(name), name) for name in tensors.names))


def _projector_name(name: str) -> str:
    match = _PROJECTOR.fullmatch(name)
    if match is None:
        raise UnsupportedCheckpoint(
            f"{PROJECTOR_FILE} has {name:.200}, which is no part of a projector.",
            remedy="Merge it with its base into one checkpoint.",
        )
    return f"model.{match[1]}"


def _lay_adapter(composite: Composite, files: Folder) -> None:
    trainables = files.path / TRAINABLES_FILE
    if trainables.is_file():
        tensors = open_file(trainables)
        composite.lay(tensors, zip(_trainable_names(tensors.names), tensors.names, strict=True))
    path = adapter_file(files.path)
    if path is not None:
        for name, delta in _read_deltas(path, files.json("adapter_config.json")):
            composite.add(name, delta, path.name)


def _trainable_names(names: Iterable[str]) -> list[str]:
    """Names of a wrapped model without its wrapping."""
    stripped = [name.removeprefix("base_model.") for name in names]
    if any(name.startswith("model.model.") for name in stripped):
        stripped = [name.removeprefix("model.") for name in stripped]
    return stripped


def _read_deltas(path: Path, config: Section) -> Iterator[tuple[str, _Delta]]:
    tensors, scale = open_file(path), _scale(config)
    pairs: dict[str, dict[str, torch.Tensor]] = {}
    for name in tensors.names:
        match = _LORA.fullmatch(name)
        if match is None:
            raise UnsupportedCheckpoint(
                f"{path.name} has {name:.200}, which is no matrix of a plain LoRA.",
                remedy="Merge it with its base into one checkpoint.",
            )
        pairs.setdefault(f"{match[1]}.weight", {})[match[2]] = tensors.tensor(name)
    for name, pair in pairs.items():
        if pair.keys() != {"A", "B"} or any(matrix.dim() != 2 for matrix in pair.values()):
            raise UnsupportedCheckpoint(f"{path.name} has one matrix for {name:.200} where two are needed.")
        yield name, _Delta(pair["A"], pair["B"], scale)


def _scale(config: Section) -> float:
    """Raises: UnsupportedCheckpoint for a kind of adapter that is more than a product of two matrices."""
    config.one_of("peft_type", "LORA", {"LORA"})
    for key in ("use_dora", "fan_in_fan_out", "rank_pattern", "alpha_pattern", "modules_to_save", "lora_bias"):
        if config.get(key):
            raise UnsupportedCheckpoint(
                f"{config.name(key)} is set; this version merges plain LoRA adapters.",
                remedy="Merge it with its base into one checkpoint.",
            )
    rank, alpha = config.count("r", 8, _MAX_RANK), config.number("lora_alpha", 8)
    return alpha / (math.sqrt(rank) if config.flag("use_rslora", default=False) else rank)
