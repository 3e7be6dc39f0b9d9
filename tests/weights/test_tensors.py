"""Tensors of checkpoints that safetensors wrote, and headers that nobody should have written."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from lavatube.errors import DigestMismatch, InvalidManifest, LavatubeError, UnsupportedCheckpoint
from lavatube.weights.tensors import open_tensors

ONE = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


def some_tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "half": torch.randn(3, 5, generator=generator).to(torch.bfloat16),
        "whole": torch.randn(7, 2, generator=generator),
        "byte": torch.arange(5, dtype=torch.uint8),
        "flags": torch.tensor([True, False, True]),
        "long": torch.arange(4),
        "scalar": torch.tensor(2.5),
        "nothing": torch.empty(0, 4),
    }


def write_raw(folder: Path, header: object, data: bytes, name: str = "model.safetensors") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (folder / name).write_bytes(len(text).to_bytes(8, "little") + text + data)
    return folder


def write_shards(folder: Path) -> dict[str, str]:
    save_file({"a": torch.ones(2), "b": torch.zeros(3)}, folder / "model-00001-of-00002.safetensors")
    save_file({"c": torch.full((4,), 2.0)}, folder / "model-00002-of-00002.safetensors")
    one, two = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    weight_map = {"a": one, "b": one, "c": two}
    write_index(folder, weight_map)
    return weight_map


def write_index(folder: Path, weight_map: object) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_single_file(tmp_path: Path) -> None:
    written = some_tensors()
    save_file(written, tmp_path / "model.safetensors", metadata={"format": "pt"})
    tensors = open_tensors(tmp_path)
    assert set(tensors.names) == set(written)
    for name, tensor in reversed(written.items()):
        assert torch.equal(tensors.tensor(name), tensor)
        assert (tensors.shape(name), tensors.dtype(name)) == (tuple(tensor.shape), tensor.dtype)
        assert tensors.file(name) == "model.safetensors"
    with pytest.raises(UnsupportedCheckpoint, match="no tensor other"):
        tensors.tensor("other")


def test_shards(tmp_path: Path) -> None:
    write_shards(tmp_path)
    tensors = open_tensors(tmp_path)
    assert set(tensors.names) == {"a", "b", "c"}
    assert torch.equal(tensors.tensor("c"), torch.full((4,), 2.0))
    assert tensors.file("c") == "model-00002-of-00002.safetensors"


def test_views_are_of_the_map_and_outlive_their_maker(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1 << 20)}, tmp_path / "model.safetensors")
    tensors = open_tensors(tmp_path)
    first, second = tensors.tensor("a"), tensors.tensor("a")
    assert first.data_ptr() == second.data_ptr(), "no copy"
    del tensors, second
    assert first.sum() == 1 << 20


def test_writing_to_a_view_never_reaches_the_file(tmp_path: Path) -> None:
    save_file({"a": torch.ones(4)}, tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").chmod(0o444)
    before = (tmp_path / "model.safetensors").read_bytes()
    open_tensors(tmp_path).tensor("a").fill_(7)
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_unaligned_tensor_is_read(tmp_path: Path) -> None:
    header = {
        "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "b": {"dtype": "F32", "shape": [1], "data_offsets": [1, 5]},
    }
    write_raw(tmp_path, header, b"\x01\x00\x00\x80\x3f")
    assert open_tensors(tmp_path).tensor("b").item() == 1.0


@pytest.mark.parametrize(
    ("header", "data", "said"),
    [
        (b"", b"", "JSON"),
        (b"{", b"", "JSON"),
        (b"\xff\xff", b"", "JSON"),
        (b"[]", b"", "object"),
        (b"[" * 100_000, b"", "JSON"),
        (b'{"a": 1, "a": 1}', b"", "twice"),
        ({"a": 1}, b"", "lacks"),
        ({"a": ONE["a"] | {"dtype": "F33"}}, bytes(8), "F33"),
        ({"a": ONE["a"] | {"shape": [-2]}}, bytes(8), "shape"),
        ({"a": ONE["a"] | {"shape": [2.0]}}, bytes(8), "shape"),
        ({"a": ONE["a"] | {"shape": [True, 2]}}, bytes(8), "shape"),
        ({"a": ONE["a"] | {"shape": [1] * 17}}, bytes(8), "shape"),
        ({"a": ONE["a"] | {"shape": [3]}}, bytes(8), "fit"),
        ({"a": ONE["a"] | {"data_offsets": [8, 0]}}, bytes(8), "fit"),
        ({"a": ONE["a"] | {"data_offsets": [-8, 0]}}, bytes(8), "fit"),
        ({"a": ONE["a"] | {"data_offsets": [0]}}, bytes(8), "lacks"),
        ({"a": ONE["a"] | {"data_offsets": [4, 12]}}, bytes(12), "hole"),
        (ONE | {"b": ONE["a"]}, bytes(8), "overlaps"),
        (ONE | {"b": ONE["a"] | {"data_offsets": [4, 12]}}, bytes(12), "overlaps"),
        (ONE, bytes(9), "belong to no tensor"),
    ],
)
def test_hostile_headers(header: object, data: bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedCheckpoint) as caught:
        open_tensors(write_raw(tmp_path, header, data))
    assert said in caught.value.message
    assert "model.safetensors" in caught.value.message


def test_header_over_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes((100_000_001).to_bytes(8, "little"))
    os.truncate(path, 200_000_000)  # sparse
    with pytest.raises(UnsupportedCheckpoint, match="over the limit"):
        open_tensors(tmp_path)


@pytest.mark.parametrize("size", [0, 7, 8, 20, -1])
def test_cut_file(size: int, tmp_path: Path) -> None:
    save_file(some_tensors(), tmp_path / "model.safetensors")
    whole = (tmp_path / "model.safetensors").stat().st_size
    os.truncate(tmp_path / "model.safetensors", size % whole)
    with pytest.raises(DigestMismatch, match=r"model\.safetensors is cut"):
        open_tensors(tmp_path)


def test_a_pointer_of_git_lfs_is_named_with_what_fetches_the_file(tmp_path: Path) -> None:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 13662720\n"
    (tmp_path / "model.safetensors").write_text(pointer)
    with pytest.raises(DigestMismatch, match="git lfs pull"):
        open_tensors(tmp_path)


def test_any_single_changed_header_byte_is_refused_or_harmless(tmp_path: Path) -> None:
    """Never a crash, and never a view outside of the file."""
    save_file(some_tensors(), tmp_path / "model.safetensors")
    data = bytearray((tmp_path / "model.safetensors").read_bytes())
    end = 8 + int.from_bytes(data[:8], "little")
    generator = random.Random(0)
    for _ in range(300):
        at, value = generator.randrange(end), generator.randrange(256)
        changed = data[:at] + bytes([value]) + data[at + 1 :]
        (tmp_path / "model.safetensors").write_bytes(changed)
        try:
            tensors = open_tensors(tmp_path)
        except LavatubeError:
            continue
        assert sum(tensors.tensor(name).clone().nbytes for name in tensors.names) == len(data) - end


@given(st.binary(max_size=64))
def test_arbitrary_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("raw")
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises((UnsupportedCheckpoint, DigestMismatch)):
        open_tensors(folder)


def test_missing_shard(tmp_path: Path) -> None:
    write_shards(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UnsupportedCheckpoint, match="model-00002-of-00002"):
        open_tensors(tmp_path)


def test_tensor_that_its_shard_lacks(tmp_path: Path) -> None:
    weight_map = write_shards(tmp_path)
    write_index(tmp_path, weight_map | {"d": "model-00001-of-00002.safetensors"})
    with pytest.raises(UnsupportedCheckpoint, match="no tensor d"):
        open_tensors(tmp_path)


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd", "a/../../b.safetensors"])
def test_index_that_wants_out(shard: str, tmp_path: Path) -> None:
    write_index(tmp_path, {"a": shard})
    with pytest.raises(InvalidManifest, match="safe relative path"):
        open_tensors(tmp_path)


@pytest.mark.parametrize("weight_map", [None, [], {"a": 1}, "x"])
def test_index_without_a_map(weight_map: object, tmp_path: Path) -> None:
    write_index(tmp_path, weight_map)
    with pytest.raises(UnsupportedCheckpoint, match="weight_map"):
        open_tensors(tmp_path)


def test_no_weights(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedCheckpoint, match="no weights"):
        open_tensors(tmp_path)
    (tmp_path / "consolidated.00.pth").write_bytes(b"")
    with pytest.raises(UnsupportedCheckpoint, match="files of torch"):
        open_tensors(tmp_path)
