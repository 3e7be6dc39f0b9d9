"""A `.bin` or `.pt` file of `torch.save` in, the places of its tensors out; its pickle is parsed and never executed.

The tensors' bytes are stored as they are in memory, so that they are mapped like those of a safetensors file. No torch.

Source: torch 2.13 `torch/serialization.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lavatube.errors import UnsupportedCheckpoint
from lavatube.weights.headers import ITEM_BYTES, TensorPlace
from lavatube.weights.torch_pickle import Machine, SavedTensor
from lavatube.weights.zip_directory import Archive, Record, Seekable

MAX_PICKLE_BYTES: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor in a record, `offset` bytes into it; where the record's bytes begin is known when they are here."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    record: Record
    offset: int

    @property
    def start(self) -> int:
        return self.record.start

    @property
    def stop(self) -> int:
        return self.record.stop

    def locate(self, archive: Archive) -> TensorPlace:
        """Raises: UnsupportedCheckpoint, DigestMismatch."""
        start = archive.data_start(self.record) + self.offset
        return TensorPlace(
            self.name, self.dtype, self.shape, start, start + math.prod(self.shape) * ITEM_BYTES[self.dtype]
        )


def read_torch_zip(path: Path) -> list[TensorPlace]:
    """The tensors of a saved dictionary, in the order in which they lie in the file.

    Raises: UnsupportedCheckpoint for anything but a dictionary of tensors, with what was found; DigestMismatch for a
    file that was cut.
    """
    try:
        with path.open("rb") as file:
            archive = Archive(file, path.name)
            return [stored.locate(archive) for stored in list_stored(file, path.name)]
    except OSError as error:
        raise UnsupportedCheckpoint(f"{path.name} can't be read: {error.strerror}.") from error


def list_stored(file: Seekable, where: str) -> list[StoredTensor]:
    """The same, of which only the pickle and the directory need be here. Raises: as `read_torch_zip`; OSError."""
    archive = Archive(file, where)
    records = archive.records()
    pickles = [name for name in records if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise UnsupportedCheckpoint(f"{where} is a zip file, but torch did not write it: it has no data.pkl.")
    root = pickles[0].removesuffix("data.pkl")
    data = _read(archive, records[pickles[0]], where)
    order = records.get(f"{root}byteorder")
    if order is not None and _read(archive, order, where) != b"little":
        raise UnsupportedCheckpoint(f"{where} was written on a machine of the other byte order.")
    storages = {name.removeprefix(f"{root}data/"): record for name, record in records.items()}
    state = Machine(storages, where).run(data)
    stored = [_stored(name, tensor, where) for name, tensor in state.items()]
    return sorted(stored, key=lambda tensor: (tensor.start, tensor.offset))


def _read(archive: Archive, record: Record, where: str) -> bytes:
    if record.size_bytes > MAX_PICKLE_BYTES:
        raise UnsupportedCheckpoint(f"{where}: {record.name} of {record.size_bytes} bytes is over the limit.")
    return archive.read(record)


def _stored(name: object, tensor: object, where: str) -> StoredTensor:
    if not isinstance(name, str) or not isinstance(tensor, SavedTensor):
        raise UnsupportedCheckpoint(f"{where}: {name!r:.200} is no tensor; only a dictionary of tensors is read.")
    storage, item_bytes = tensor.storage, ITEM_BYTES[tensor.storage.dtype]
    offset = tensor.offset * item_bytes
    if offset + math.prod(tensor.shape) * item_bytes > storage.record.size_bytes:
        raise UnsupportedCheckpoint(f"{where}: {name!r:.200} is larger than what the file stores for it.")
    return StoredTensor(name, storage.dtype, tensor.shape, storage.record, offset)
