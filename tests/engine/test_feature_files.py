"""Encoded images on disk: found by another process, within their bytes, and never when they have changed."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from time import sleep

import pytest
import torch

from lavatube.engine.core import EngineCore
from lavatube.engine.feature_files import FeatureFiles
from lavatube.engine.features import FeatureCache
from lavatube.model.llava import Llava
from lavatube.spec import ModelSpec
from tests.engine.requests import answer, run, submit

CPU = torch.device("cpu")
ROWS = torch.arange(12, dtype=torch.bfloat16).view(3, 4)


def kept(folder: Path, features: torch.Tensor = ROWS, key: bytes = b"a", max_bytes: int = 1 << 20) -> Path:
    """The file that another process left."""
    files = FeatureFiles(folder, max_bytes, "weights")
    files.keep(key, features)
    files.close()
    return max(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)


def find(folder: Path, key: bytes = b"a", identity: str = "weights") -> torch.Tensor | None:
    return FeatureFiles(folder, 1 << 20, identity).find(key)


def test_what_was_kept_is_found_by_the_next(tmp_path: Path) -> None:
    kept(tmp_path / "new")
    found = find(tmp_path / "new")
    assert found is not None
    assert found.dtype == ROWS.dtype
    assert torch.equal(found, ROWS)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_another_picture_and_other_weights_find_nothing(tmp_path: Path) -> None:
    kept(tmp_path)
    assert find(tmp_path, key=b"b") is None
    assert find(tmp_path, identity="others") is None


@pytest.mark.parametrize("damage", ["bit", "end", "all", "other"])
def test_what_was_damaged_is_thrown_away(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    path = kept(tmp_path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes({"bit": bytes(data), "end": data[:-1], "all": b"", "other": b"{}" * 100}[damage])
    assert find(tmp_path) is None
    assert not path.exists()
    assert "thrown away" in caplog.text


def test_the_least_recently_used_is_let_go(tmp_path: Path) -> None:
    names = (b"a", b"b", b"c")
    for age, name in enumerate(names):
        os.utime(kept(tmp_path, key=name), (age, age))
    size = max(path.stat().st_size for path in tmp_path.iterdir())
    assert find(tmp_path, b"a") is not None  # used now
    kept(tmp_path, key=b"d", max_bytes=4 * size - 1)
    assert [name for name in (*names, b"d") if find(tmp_path, name) is not None] == [b"a", b"c", b"d"]


def test_who_may_only_read_finds_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept(tmp_path)

    def refuse(path: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", str(path))

    monkeypatch.setattr(os, "utime", refuse)  # as where the folder is somebody else's
    files = FeatureFiles(tmp_path, 1 << 20, "weights")
    assert files.find(b"a") is not None
    assert files.find(b"a") is not None


def test_what_is_too_large_is_not_written(tmp_path: Path) -> None:
    files = FeatureFiles(tmp_path, ROWS.nbytes - 1, "weights")
    files.keep(b"a", ROWS)
    files.close()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("no folder")
    files = FeatureFiles(tmp_path / "file" / "below", 1 << 20, "weights")
    for key in (b"a", b"b"):
        files.keep(key, ROWS)
    files.close()
    assert files.find(b"a") is None
    assert caplog.text.count("encoded pictures can't be") == 1


def test_two_servers_that_keep_the_same_picture_do_not_take_each_others_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In containers on one volume both may have the same process id, as both writers have here."""
    servers = [FeatureFiles(tmp_path, 1 << 20, "weights") for _ in range(2)]
    for _ in range(400):
        for server in servers:
            server.keep(b"a", ROWS)
        sleep(1e-4)  # what comes while many wait is not written
    for server in servers:
        server.close()
    assert not caplog.records
    assert len(list(tmp_path.iterdir())) == 1
    assert find(tmp_path) is not None


def test_memory_is_asked_first_and_filled_from_disk(tmp_path: Path) -> None:
    kept(tmp_path)
    cache = FeatureCache(max_bytes=100)
    cache.files = FeatureFiles(tmp_path, 1 << 20, "weights")
    first = cache.find(b"a", CPU)
    assert first is not None
    assert cache.find(b"a", CPU) is first
    assert (cache.num_hits, cache.num_misses, cache.files.num_hits) == (2, 0, 1)


def test_an_engine_that_starts_again_encodes_nothing_twice(tmp_path: Path, model: Llava, spec: ModelSpec) -> None:
    asked = submit(spec, "a", length=20, num_images=2, seed=1)
    answers = []
    for misses in (2, 0):
        files = FeatureFiles(tmp_path, 1 << 20, "weights")
        core = EngineCore(model, spec, num_blocks=64, max_sequences=8, max_step_tokens=512, image_files=files)
        answers.append(answer(run(core, asked)["a"]))
        files.close()
        assert (core.caches.image_misses, core.caches.image_disk_hits) == (misses, 2 - misses)
    assert answers[0] == answers[1]
