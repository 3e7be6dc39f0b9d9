"""The restricted reader of torch files: agrees with torch on honest files, and runs nothing of hostile ones."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from lavatube.errors import DigestMismatch, UnsupportedCheckpoint
from lavatube.weights.tensors import open_tensors
from lavatube.weights.torch_zip import MAX_PICKLE_BYTES, read_torch_zip
from lavatube.weights.zip_directory import Archive

WEIGHTS = "pytorch_model.bin"


def saved(folder: Path, value: object) -> Path:
    path = folder / WEIGHTS
    torch.save(value, path)
    return path


def rewritten(folder: Path, change: Callable[[str, bytes], bytes | None], **options: Any) -> Path:
    """An honest file whose records `change` has been at; None drops one."""
    source = saved(folder, {"a": torch.arange(6.0).reshape(2, 3)})
    records = [(info.filename, zipfile.ZipFile(source).read(info)) for info in zipfile.ZipFile(source).infolist()]
    with zipfile.ZipFile(source, "w", **options) as archive:
        for name, data in records:
            changed = change(name, data)
            if changed is not None:
                archive.writestr(name, changed)
    return source


def with_pickle(folder: Path, data: bytes) -> Path:
    return rewritten(folder, lambda name, old: data if name.endswith("data.pkl") else old)


class Malice:
    """What a pickle can do to whoever loads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def honest_state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(4, 3, generator=generator)
    return {
        "float32": torch.randn(2, 3, generator=generator),
        "half": torch.randn(5, generator=generator).half(),
        "bfloat16": torch.randn(3, 1, 2, generator=generator).bfloat16(),
        "double": torch.randn(2, generator=generator).double(),
        "int64": torch.arange(7),
        "uint8": torch.arange(7).to(torch.uint8),
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 4),
        "shared": shared,
        "part of shared": shared[1:3],
        "parameter": nn.Parameter(torch.ones(2)),
        "edges of one": torch.randn(3, 1, generator=generator).T,
    }


@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_reads_what_torch_wrote(tmp_path: Path, kind: type[dict[str, torch.Tensor]]) -> None:
    state = kind(honest_state())
    saved(tmp_path, state)
    tensors = open_tensors(tmp_path)
    assert set(tensors.names) == set(state)
    for name, expected in state.items():
        found = tensors.tensor(name)
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected.detach()), name


def test_reads_a_state_dict_of_a_module(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2))
    saved(tmp_path, module.state_dict())
    tensors = open_tensors(tmp_path)
    assert all(torch.equal(tensors.tensor(name), value) for name, value in module.state_dict().items())


def test_many_tensors_and_batches_of_the_pickle(tmp_path: Path) -> None:
    state = {f"layer.{index}": torch.full((2,), float(index)) for index in range(2500)}
    saved(tmp_path, state)
    assert len(read_torch_zip(tmp_path / WEIGHTS)) == 2500


@pytest.mark.parametrize("shape", [(), (3,), (2, 0, 3), (1, 2, 1)])
def test_places_of_shapes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    saved(tmp_path, {"a": torch.zeros(shape)})
    (place,) = read_torch_zip(tmp_path / WEIGHTS)
    assert (place.shape, place.stop - place.start) == (shape, 4 * torch.zeros(shape).numel())


def test_code_in_a_file_is_refused_by_name_and_not_run(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    path = saved(tmp_path, {"a": torch.zeros(2), "b": Malice(witness)})
    with pytest.raises(UnsupportedCheckpoint, match=r"the name 'posix\.mkdir'"):
        read_torch_zip(path)
    assert not witness.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_code_in_every_protocol(tmp_path: Path, protocol: int) -> None:
    witness = tmp_path / "witness"
    path = with_pickle(tmp_path, pickle.dumps({"a": Malice(witness)}, protocol=protocol))
    with pytest.raises(UnsupportedCheckpoint):
        read_torch_zip(path)
    assert not witness.exists()


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"cos\nsystem\n(X\x02\x00\x00\x00idtR.", "the name 'os.system'"),
        (b"cbuiltins\neval\nq\x00.", "the name 'builtins.eval'"),
        (b"(ios\nsystem\n.", "the instruction INST"),
        (b"\x80\x02}(X\x01\x00\x00\x00aK\x01o.", "the instruction OBJ"),
        (b"\x80\x02}\x82\x01.", "the instruction EXT1"),
        (b"\x80\x02cos\nsystem\n", "the name 'os.system'"),
        (b"\x80\x02ccollections\nOrderedDict\n)R", "damaged"),
        (b"\x80\x02ccollections\nOrderedDict\nK\x01\x85R.", "a call with other arguments"),
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.", "a call with other arguments"),
        (b"\x80\x02)R.", "fewer values"),
        (b"\x80\x02t.", "fewer values"),
        (b"\x80\x02(.", "fewer values"),
        (b"\x80\x02}u.", "fewer values"),
        (b"\x80\x02h\x05.", "never stored"),
        (b"\x80\x02}K\x01K\x02s.", "keys that are no names"),
        (b"\x80\x02}X\x01\x00\x00\x00aK\x01sX\x01\x00\x00\x00aK\x01s.", "two values"),
        (b"\x80\x02}}.", "other than one dictionary"),
        (b"\x80\x02K\x01.", "other than one dictionary"),
        (b"\x80\x02}..", "other than one dictionary"),
        (b"\x80\x02X\xff\xff\xff\x7fa.", "damaged"),
        (b"\x80\x02}}X\x01\x00\x00\x00xK\x01sb.", "attributes"),
        (b"\x80\x02(X\x07\x00\x00\x00storageK\x01X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQ.", "a storage"),
        (b"", "damaged"),
        (b"\x80\x02" + b"}" * 20_000 + b".", "a deeper stack, than any model"),
        (b"\x80\x02" + b"(" * 20_000 + b".", "a deeper stack, than any model"),
        (b"\x80\x02)" + b"\x85" * 2_000_000 + b".", "more instructions"),
        (b"\x80\x02)" + b"\x85" * 500_000 + b".", "other than one dictionary"),
        (b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.", "is no tensor"),
        (b"\x80\x02}X\x01\x00\x00\x00aK\x01s.", "is no tensor"),
        (b"I" + b"9" * 5000 + b"\n.", "damaged"),
    ],
)
def test_pickles_that_torch_does_not_write(tmp_path: Path, data: bytes, fault: str) -> None:
    with pytest.raises(UnsupportedCheckpoint, match=fault):
        read_torch_zip(with_pickle(tmp_path, data))


def test_a_storage_that_claims_more_than_its_record(tmp_path: Path) -> None:
    path = rewritten(tmp_path, lambda name, old: old[:-4] if name.endswith("data/0") else old)
    with pytest.raises(UnsupportedCheckpoint, match="another length than its record"):
        read_torch_zip(path)


def test_a_storage_that_is_missing(tmp_path: Path) -> None:
    path = rewritten(tmp_path, lambda name, old: None if name.endswith("data/0") else old)
    with pytest.raises(UnsupportedCheckpoint, match="not in the file"):
        read_torch_zip(path)


def test_a_tensor_that_leaves_its_storage(tmp_path: Path) -> None:
    # The shape (2, 3) and the stride (3, 1) become (9, 3) and (3, 1).
    path = rewritten(
        tmp_path, lambda name, old: old.replace(b"K\x02K\x03\x86", b"K\x09K\x03\x86") if "pkl" in name else old
    )
    with pytest.raises(UnsupportedCheckpoint, match="larger than what the file stores"):
        read_torch_zip(path)


def test_a_tensor_that_is_not_contiguous(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedCheckpoint, match="not contiguous"):
        read_torch_zip(saved(tmp_path, {"a": torch.zeros(2, 3).T}))


def test_other_byte_order(tmp_path: Path) -> None:
    path = rewritten(tmp_path, lambda name, old: b"big" if name.endswith("byteorder") else old)
    with pytest.raises(UnsupportedCheckpoint, match="byte order"):
        read_torch_zip(path)


def test_a_pickle_beyond_the_limit(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedCheckpoint, match="over the limit"):
        read_torch_zip(with_pickle(tmp_path, bytes(MAX_PICKLE_BYTES + 1)))


def test_compressed_records(tmp_path: Path) -> None:
    path = rewritten(tmp_path, lambda _, old: old, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(UnsupportedCheckpoint, match="compressed"):
        read_torch_zip(path)


def test_a_zip_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / WEIGHTS
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(UnsupportedCheckpoint, match=r"no data\.pkl"):
        read_torch_zip(path)


def test_two_records_of_one_name(tmp_path: Path) -> None:
    path = saved(tmp_path, {"a": torch.zeros(2)})
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr(archive.infolist()[0].filename, b"another")
    with pytest.raises(UnsupportedCheckpoint, match="two records"):
        read_torch_zip(path)


def test_a_file_of_torch_before_1_6(tmp_path: Path) -> None:
    path = tmp_path / WEIGHTS
    torch.save({"a": torch.zeros(2)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(DigestMismatch, match=r"older than 1\.6"):
        read_torch_zip(path)


def test_overlapping_records(tmp_path: Path) -> None:
    path = saved(tmp_path, {"a": torch.zeros(64), "b": torch.ones(64)})
    data = bytearray(path.read_bytes())
    # The second storage's entry of the directory is made to point at the first one's header.
    entries = [at for at in range(len(data)) if data[at : at + 4] == b"PK\x01\x02"]
    named = {bytes(data[at + 46 : at + 46 + data[at + 28]]): at for at in entries}
    one, two = (next(at for name, at in named.items() if name.endswith(ending)) for ending in (b"data/0", b"data/1"))
    data[two + 42 : two + 46] = data[one + 42 : one + 46]
    path.write_bytes(data)
    with pytest.raises(UnsupportedCheckpoint, match="overlaps"):
        read_torch_zip(path)
    data[two + 46 : two + 46 + data[two + 28]] = data[one + 46 : one + 46 + data[one + 28]]
    path.write_bytes(data)
    with pytest.raises(UnsupportedCheckpoint, match="two records"):
        read_torch_zip(path)


def test_sixty_four_bit_places(tmp_path: Path) -> None:
    """Files beyond 4 GiB keep sizes and places in the extra field; here a small one does."""
    path = tmp_path / "wide.zip"
    name, content = b"a/data.pkl", b"}."
    local = struct.pack("<4s5H3L2H", b"PK\x03\x04", 45, 0, 0, 0, 0, 0, 2, 2, len(name), 0) + name + content
    extra = struct.pack("<2H3Q", 1, 24, 2, 2, 0)
    full = 0xFFFFFFFF
    entry = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 45, 45, 0, 0, 0, 0, 0, full, full, 10, 28, 0, 0, 0, 0, full)
    directory = entry + name + extra
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, len(directory), len(local))
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, len(local) + len(directory), 1)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, full, full, 0)
    path.write_bytes(local + directory + end64 + locator + end)
    with path.open("rb") as file:
        archive = Archive(file, path.name)
        assert archive.read(archive.records()["a/data.pkl"]) == content
    assert read_torch_zip(path) == []


def _honest_bytes() -> bytes:
    stream = io.BytesIO()
    torch.save({"a": torch.arange(6.0), "b": torch.ones(2, 2).half()}, stream)
    return stream.getvalue()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4), cut=st.booleans()
)
def test_damage_is_refused_or_harmless(tmp_path: Path, changes: list[tuple[int, int]], cut: bool) -> None:
    data = bytearray(_honest_bytes())
    for place, value in changes:
        data[place % len(data)] = value
    if cut:
        del data[changes[0][0] % len(data) :]
    path = tmp_path / WEIGHTS
    path.write_bytes(data)
    try:
        places = read_torch_zip(path)
    except (UnsupportedCheckpoint, DigestMismatch):
        return
    assert all(0 <= place.start <= place.stop <= len(data) for place in places)
