"""The header of a safetensors file, checked before a byte of it is mapped: names, types, shapes and places. No torch.

Source: the format's README, huggingface/safetensors v0.8: 8 bytes of length, little-endian; JSON; the tensors' bytes.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lavatube.errors import DigestMismatch, UnsupportedCheckpoint
from lavatube.weights.content import check_paths
from lavatube.weights.manifest import unique_pairs
from lavatube.weights.zip_directory import Seekable

MAX_HEADER_BYTES: Final = 100_000_000
LFS_POINTER: Final = b"version https://git-lfs.github.com/spec/"  # what a clone holds where Git LFS is not installed
ITEM_BYTES: Final = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
SINGLE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
TORCH_SINGLE: Final = "pytorch_model.bin"
TORCH_INDEX: Final = "pytorch_model.bin.index.json"


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """One tensor in a file: bytes `start` to `stop`, counted from the file's beginning."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def read_header(path: Path) -> list[TensorPlace]:
    """The tensors of a file, in the order in which they lie there.

    Raises: UnsupportedCheckpoint for a header that breaks the format; DigestMismatch for a file that was cut.
    """
    try:
        with path.open("rb") as file:
            return list_tensors(file, path.name)
    except OSError as error:
        raise UnsupportedCheckpoint(f"{path.name} can't be read: {error.strerror}.") from error


def list_tensors(file: Seekable, where: str) -> list[TensorPlace]:
    """The same, of which only the header need be here. Raises: as `read_header`; OSError."""
    size = file.seek(0, 2)
    file.seek(0)
    start = file.read(len(LFS_POINTER))
    if start == LFS_POINTER:
        raise DigestMismatch(
            f"{where} is not the file itself but a Git LFS pointer to it.", remedy="Run `git lfs pull` in its folder."
        )
    file.seek(8)
    length = int.from_bytes(start[:8], "little")
    if size < 8 or length > size - 8:
        raise DigestMismatch(f"{where} is cut: its header alone is longer.", remedy="Fetch it again.")
    if length > MAX_HEADER_BYTES:
        raise UnsupportedCheckpoint(f"{where}: a header of {length} bytes is over the limit.")
    return _check(_load(file.read(length), where), 8 + length, size, where)


def read_index(path: Path) -> dict[str, str]:
    """Name of each tensor → name of the file that holds it. Raises: UnsupportedCheckpoint, InvalidManifest."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UnsupportedCheckpoint(f"{path.name} can't be read: {error.strerror}.") from error
    match _load(data, path.name):
        case {"weight_map": dict(weight_map)} if all(isinstance(shard, str) for shard in weight_map.values()):
            check_paths(set(weight_map.values()), path.name)
            return {str(name): str(shard) for name, shard in weight_map.items()}
        case _:
            raise UnsupportedCheckpoint(f"{path.name} has no weight_map of file names.")


def _load(data: bytes, where: str) -> dict[str, object]:
    try:
        value = json.loads(data.decode(), object_pairs_hook=unique_pairs)
    except (ValueError, RecursionError) as error:
        raise UnsupportedCheckpoint(f"{where}: what should be JSON is not: {error}.") from error
    if not isinstance(value, dict):
        raise UnsupportedCheckpoint(f"{where}: a JSON object was expected.")
    return value


def _check(header: dict[str, object], data_start: int, size: int, where: str) -> list[TensorPlace]:
    places = [_place(name, entry, data_start, where) for name, entry in header.items() if name != "__metadata__"]
    places.sort(key=lambda place: (place.start, place.stop))
    at = data_start
    for place in places:
        if place.start != at:
            raise UnsupportedCheckpoint(f"{where}: {place.name} overlaps another tensor, or leaves a hole before it.")
        at = place.stop
    if at > size:
        raise DigestMismatch(
            f"{where} is cut: it has {size} bytes, and its tensors need {at}.", remedy="Fetch it again."
        )
    if at < size:
        raise UnsupportedCheckpoint(f"{where} has {size - at} bytes that belong to no tensor.")
    return places


def _place(name: str, entry: object, data_start: int, where: str) -> TensorPlace:
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(start), int(stop)]}:
            pass
        case _:
            raise UnsupportedCheckpoint(f"{where}: {name!r:.200} lacks dtype, shape or data_offsets.")
    if dtype not in ITEM_BYTES:
        raise UnsupportedCheckpoint(f"{where}: {name!r:.200} has the type {dtype!r:.40}, which is not read.")
    if not all(type(edge) is int and 0 <= edge < 1 << 48 for edge in shape) or len(shape) > 16:
        raise UnsupportedCheckpoint(f"{where}: {name!r:.200} has an impossible shape.")
    if start < 0 or stop - start != math.prod(shape) * ITEM_BYTES[dtype]:
        raise UnsupportedCheckpoint(f"{where}: {name!r:.200} has a place that doesn't fit its shape and type.")
    return TensorPlace(name, dtype, tuple(shape), data_start + start, data_start + stop)
