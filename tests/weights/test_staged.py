"""Folders that are shown early: kept as long as somebody lives who uses them, and swept by the next start."""

from __future__ import annotations

import fcntl
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lavatube.weights.cache import Cache
from lavatube.weights.manifest import FILE_NAME, build_manifest
from lavatube.weights.options import ProvisionOptions
from lavatube.weights.provision import provision
from lavatube.weights.staged import StagedFolder, claim, sweep
from tests.cdn import Cdn
from tests.checkpoints import write_checkpoint
from tests.weights.conftest import CHUNK, contents
from tests.weights.test_processes import kill, start


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Cdn]:
    """A checkpoint of which the first bytes come, and the rest does not."""
    folder = write_checkpoint(tmp_path / "origin", layers=4, hidden_size=128, intermediate_size=512)
    (folder / FILE_NAME).write_text(build_manifest(folder, "weights", chunk_bytes=CHUNK).to_json())
    with Cdn(folder) as cdn:
        yield cdn
        cdn.released.set()


def test_the_next_start_removes_what_a_killed_one_has_left(held: Cdn, options: ProvisionOptions) -> None:
    child = start(held.url("held"), options.cache, flags=("--stage",))
    assert child.stdout is not None
    folder = Path(child.stdout.readline().strip())
    sweep(folder.parent)
    assert (folder / "config.json").is_file(), "it is in use"
    kill(child)
    held.released.set()
    provision(held.url("ok"), options, lambda _: None)
    assert list(folder.parent.iterdir()) == []


@pytest.mark.slow
def test_kills_at_random_instants_leave_nothing_that_is_shown(held: Cdn, options: ProvisionOptions) -> None:
    """Also between the making of a folder and its lock, and while another start sweeps."""
    generator, num_killed, folder = random.Random(1), 0, held.folder
    for _ in range(50):
        child = start(held.url("slow"), options.cache, flags=("--stage",))
        try:
            child.wait(generator.uniform(0.05, 1.5))
        except subprocess.TimeoutExpired:
            num_killed += 1
        kill(child)
        for tree in options.cache.glob("trees/*.ready"):
            assert contents(tree.with_suffix("")) == {
                name: (folder / name).read_bytes() for name in contents(tree.with_suffix(""))
            }
            shutil.rmtree(options.cache)
    assert num_killed > 10
    provision(held.url("ok"), options, lambda _: None)
    assert not [path for path in Cache(options.cache).staged.glob("*") if path.is_dir() or path.suffix == ".lock"]


def test_a_folder_outlives_its_maker_while_somebody_else_uses_it(tmp_path: Path) -> None:
    maker = StagedFolder(tmp_path / "shown")
    maker.path.mkdir()
    user = claim(maker.path)
    assert user is not None
    maker.close()
    sweep(tmp_path)
    assert user.path.is_dir()
    user.close()
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_was_swept_before_it_was_taken_is_not_taken(tmp_path: Path) -> None:
    assert claim(tmp_path / "shown") is None
    assert list(tmp_path.iterdir()) == []


def test_where_locks_mean_nothing_nothing_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = StagedFolder(tmp_path / "shown")
    left.path.mkdir()
    left.close()
    monkeypatch.setattr(fcntl, "flock", lambda descriptor, operation: None)
    sweep(tmp_path)
    assert left.path.is_dir()


def test_no_write_where_nothing_is_left(options: ProvisionOptions) -> None:
    sweep(Cache(options.cache).staged)
    assert not options.cache.exists()
