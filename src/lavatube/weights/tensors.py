"""A folder of weights as named tensors: every header checked first, then views of the mapped files.

Files of safetensors and those of `torch.save`, of which nothing is run, look the same from here. The only module of
`weights` that imports torch. Knows no models.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch

from lavatube.errors import UnsupportedCheckpoint
from lavatube.weights.arrival import find_arrivals
from lavatube.weights.chunk_map import map_beside
from lavatube.weights.content import missing_weights
from lavatube.weights.headers import INDEX, SINGLE, TORCH_INDEX, TORCH_SINGLE, TensorPlace, read_header, read_index
from lavatube.weights.torch_zip import StoredTensor, list_stored, read_torch_zip
from lavatube.weights.zip_directory import Archive

Place = TensorPlace | StoredTensor
"""Where a tensor lies: known exactly, or, in a file of torch that is still being fetched, as far as its end says."""

_DTYPES: Final = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


class Tensors:
    """Tensors by name, read when they are asked for, in any order."""

    def __init__(self, folder: Path, places: dict[str, tuple[str, Place]]) -> None:
        self._folder = folder
        self._arrivals = find_arrivals(folder)
        self._places = places
        self._maps: dict[str, mmap.mmap] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """In the order of the files, and in each as the tensors lie: reading in this order reads straight on."""
        return tuple(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        """Raises: UnsupportedCheckpoint if there is no such tensor."""
        return self._find(name)[1].shape

    def dtype(self, name: str) -> torch.dtype:
        """Raises: UnsupportedCheckpoint if there is no such tensor."""
        return _DTYPES[self._find(name)[1].dtype]

    def file(self, name: str) -> str:
        """Of which file it is. Raises: UnsupportedCheckpoint if there is no such tensor."""
        return self._find(name)[0]

    def tensor(self, name: str) -> torch.Tensor:
        """A view of the mapped file, which lives as long as the view; writing to it never reaches the file.

        Waits for bytes that are still on their way. Raises: UnsupportedCheckpoint if there is no such tensor; Spoiled.
        """
        file, place = self._find(name)
        dtype = _DTYPES[place.dtype]
        if 0 in place.shape:
            return torch.empty(place.shape, dtype=dtype)
        if file in self._arrivals:
            self._arrivals[file].wait(place.start, place.stop)
        if isinstance(place, StoredTensor):
            place = _locate(self._folder / file, place)
        count = place.stop - place.start
        data = torch.frombuffer(self._map(file), dtype=torch.uint8, count=count, offset=place.start)
        if data.data_ptr() % dtype.itemsize:
            data = data.clone()  # legal in the format, but no processor likes it
        return data.view(dtype).view(place.shape)

    def _find(self, name: str) -> tuple[str, Place]:
        if name not in self._places:
            raise UnsupportedCheckpoint(f"The checkpoint has no tensor {name}.")
        return self._places[name]

    def _map(self, file: str) -> mmap.mmap:
        if file not in self._maps:
            try:
                with (self._folder / file).open("rb") as opened:
                    # Private and writable, as torch warns of read-only buffers; a page is copied only if written to.
                    self._maps[file] = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)
            except OSError as error:
                raise UnsupportedCheckpoint(f"{file} can't be mapped: {error.strerror}.") from error
        return self._maps[file]


def open_tensors(folder: Path) -> Tensors:
    """The tensors of a checkpoint: of one file, or else of the shards that its index names; safetensors come first.

    Raises: UnsupportedCheckpoint, DigestMismatch, both with the file's name.
    """
    for single, index in ((SINGLE, INDEX), (TORCH_SINGLE, TORCH_INDEX)):
        if (folder / single).is_file():
            return open_file(folder / single)
        if (folder / index).is_file():
            return Tensors(folder, _read_shards(folder, index))
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    single_names = [name for name in names if name.endswith(".safetensors") and not name.startswith("adapter_")]
    if len(single_names) == 1:
        return open_file(folder / single_names[0])
    if single_names:
        raise UnsupportedCheckpoint(f"{folder} has several .safetensors files, but no {INDEX}.")
    raise missing_weights(names, str(folder))


def open_file(path: Path) -> Tensors:
    """The tensors of one file. Raises: as `open_tensors`."""
    return Tensors(path.parent, {place.name: (path.name, place) for place in _read_places(path)})


def _read_places(path: Path) -> Sequence[Place]:
    if path.suffix == ".safetensors":
        return read_header(path)
    if not map_beside(path).exists():
        return read_torch_zip(path)
    with path.open("rb") as file:
        return list_stored(file, path.name)


def _locate(path: Path, stored: StoredTensor) -> TensorPlace:
    with path.open("rb") as file:
        return stored.locate(Archive(file, path.name))


def _read_shards(folder: Path, index: str) -> dict[str, tuple[str, Place]]:
    weight_map = read_index(folder / index)
    places: dict[str, tuple[str, Place]] = {}
    for shard in sorted(set(weight_map.values())):
        if not (folder / shard).is_file():
            raise UnsupportedCheckpoint(f"{index} names {shard}, which is not there.", remedy="Fetch it again.")
        found = {place.name: (shard, place) for place in _read_places(folder / shard)}
        places |= {name: place for name, place in found.items() if weight_map.get(name) == shard}
    for name, shard in weight_map.items():
        if name not in places:
            raise UnsupportedCheckpoint(f"{shard} has no tensor {name}, which {index} says it has.")
    return places
