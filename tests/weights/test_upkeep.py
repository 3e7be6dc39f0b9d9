"""`lavatube cache ls | rm | gc`: what is listed, what goes, and that nothing that is needed goes."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from lavatube.errors import CacheUnusable, InvalidSetting
from lavatube.weights.cache import Cache
from lavatube.weights.in_use import HeldSets
from lavatube.weights.locks import hold
from lavatube.weights.options import ProvisionOptions
from lavatube.weights.parts import Part
from lavatube.weights.provision import Provisioned, provision
from lavatube.weights.upkeep import collect, list_sets, remove_set, size_bytes
from tests.weights.conftest import SIZES, contents, expected, write_weights


@pytest.fixture
def pulled(options: ProvisionOptions, origin: Path) -> Provisioned:
    return provision(origin.as_uri(), options, lambda _: None)


def test_list(options: ProvisionOptions, pulled: Provisioned, origin: Path) -> None:
    (cached,) = list_sets(Cache(options.cache))
    assert (cached.set_digest, cached.name, cached.source) == (pulled.set_digest, "weights", origin.as_uri())
    assert (cached.total_bytes, cached.num_files) == (sum(SIZES.values()), len(SIZES))


def test_nothing_to_list_or_collect(options: ProvisionOptions) -> None:
    assert list_sets(Cache(options.cache)) == []
    assert collect(Cache(options.cache)) == 0
    assert not options.cache.exists()


def test_remove_leaves_the_other_set(options: ProvisionOptions, pulled: Provisioned, tmp_path: Path) -> None:
    other = write_weights(tmp_path / "other", seed=1)
    kept = provision(other.as_uri(), options, lambda _: None)
    cache = Cache(options.cache)
    with pytest.raises(InvalidSetting, match="2 sets"):
        remove_set(cache, "weights")
    removed, freed_bytes = remove_set(cache, pulled.set_digest[:8])
    assert removed.set_digest == pulled.set_digest
    assert freed_bytes >= sum(SIZES.values()) - SIZES["empty.txt"]
    assert [cached.set_digest for cached in list_sets(cache)] == [kept.set_digest]
    assert contents(kept.folder) == expected(other)
    assert provision(other.as_uri(), options, lambda _: None).from_cache


@pytest.mark.parametrize("query", ["nothing", "", "a"])
def test_remove_what_is_not_there(query: str, options: ProvisionOptions, pulled: Provisioned) -> None:
    with pytest.raises(InvalidSetting, match="no set"):
        remove_set(Cache(options.cache), query)


def test_collect_takes_orphans_only(options: ProvisionOptions, pulled: Provisioned, origin: Path) -> None:
    cache = Cache(options.cache)
    held, orphan, fresh = (Part(cache.parts, name, 100, 10) for name in ("held", "orphan", "fresh"))
    for part in (held, orphan):
        os.utime(part.path, (0, 0))
    orphan.close()
    fresh.close()
    blob = cache.blob("0" * 64)
    blob.parent.mkdir()
    blob.write_bytes(b"nobody's")
    (cache.trees / ("1" * 64)).mkdir()
    assert collect(cache) > 0
    held.close()
    assert not blob.exists()
    assert not (cache.trees / ("1" * 64)).exists()
    assert {path.stem for path in cache.parts.glob("*.part")} == {"held", "fresh"}
    assert contents(pulled.folder) == expected(origin)
    assert provision(origin.as_uri(), options, lambda _: None).from_cache


def test_not_while_something_is_fetched(options: ProvisionOptions, pulled: Provisioned) -> None:
    cache = Cache(options.cache)
    with hold(cache.upkeep_lock, 0.0, is_shared=True), pytest.raises(CacheUnusable, match="being fetched"):
        collect(cache)


def test_what_is_in_use_stays(options: ProvisionOptions, pulled: Provisioned, origin: Path) -> None:
    cache, told = Cache(options.cache), list[str]()
    with closing(HeldSets(pulled.folder)), closing(HeldSets(pulled.folder)):
        assert collect(cache, max_bytes=0, tell=told.append) == 0
        with pytest.raises(CacheUnusable, match="is in use"):
            remove_set(cache, "weights")
    assert told == [f"weights ({pulled.set_digest:.12}) is in use, and stays"]
    assert contents(pulled.folder) == expected(origin)
    assert remove_set(cache, "weights")[1] > 0
    assert not list(cache.locks.glob("*.used.lock"))


def test_so_do_the_sets_that_a_folder_is_joined_of(
    options: ProvisionOptions, pulled: Provisioned, tmp_path: Path
) -> None:
    joined = tmp_path / "joined" / "0"
    (joined / "tower").mkdir(parents=True)
    (joined / "tower" / "config.json").symlink_to(pulled.folder / "config.json")
    (joined / "own.json").symlink_to(tmp_path / "own.json")
    cache = Cache(options.cache)
    with closing(HeldSets(joined)):
        assert collect(cache, max_bytes=0) == 0
    assert collect(cache, max_bytes=0) > 0


def test_to_hold_a_set_is_no_must(options: ProvisionOptions, pulled: Provisioned, tmp_path: Path) -> None:
    """A folder of this machine has none, and a cache that is only read no place for a lock."""
    with closing(HeldSets(tmp_path)):
        assert not list(tmp_path.rglob("*.used.lock"))
    shutil.rmtree(options.cache / "locks")
    with closing(HeldSets(pulled.folder)):
        pass


def refuse(descriptor: object, operation: int) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


@pytest.mark.parametrize("flock", [refuse, lambda descriptor, operation: None], ids=["refused", "keep nobody out"])
def test_without_locks_what_is_new_stays(
    flock: Callable[[object, int], None],
    options: ProvisionOptions,
    pulled: Provisioned,
    origin: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody may be about to make a set of it, or serve it."""
    monkeypatch.setattr(fcntl, "flock", flock)
    cache, told = Cache(options.cache), list[str]()
    blob = cache.blob("0" * 64)
    blob.parent.mkdir()
    blob.write_bytes(b"of a set that is being fetched")
    (cache.trees / ("1" * 64)).mkdir()
    assert collect(cache, max_bytes=0, tell=told.append) == 0
    with pytest.raises(CacheUnusable, match="was used in the last 6 hours"):
        remove_set(cache, "weights")
    assert blob.exists()
    assert (cache.trees / ("1" * 64)).exists()
    assert "has no locks" in told[0]
    assert contents(pulled.folder) == expected(origin)
    os.utime(cache.marker(pulled.set_digest), (0, 0))
    later_s = time.time() + 7 * 3600
    monkeypatch.setattr(time, "time", lambda: later_s)
    with closing(HeldSets(pulled.folder)) as served:
        in_use = cache.locks / f"{pulled.set_digest}.used.lock"
        os.utime(in_use, (later_s, later_s - 3600))
        with pytest.raises(CacheUnusable, match="was used in the last 6 hours"):
            remove_set(cache, "weights")
        served.renew()
        assert in_use.stat().st_mtime < later_s - 6 * 3600, "that moment is long ago by now"
    assert remove_set(cache, "weights")[1] > 0
    assert not blob.exists()
    assert not (cache.trees / ("1" * 64)).exists()
    assert not list(cache.locks.glob("*.used.lock"))


def test_a_set_that_is_removed_before_it_is_held(options: ProvisionOptions, pulled: Provisioned) -> None:
    remove_set(Cache(options.cache), "weights")
    with pytest.raises(CacheUnusable, match=f"{pulled.set_digest} was removed just now"):
        HeldSets(pulled.folder)


def test_a_folder_of_ones_own_that_looks_like_a_set(tmp_path: Path) -> None:
    folder = tmp_path / "trees" / ("0" * 64)
    folder.mkdir(parents=True)
    with closing(HeldSets(folder)):
        assert not list(tmp_path.rglob("*.lock"))


def test_collect_down_to_a_size(options: ProvisionOptions, pulled: Provisioned, origin: Path, tmp_path: Path) -> None:
    """The set that was used longest ago goes; what two sets share stays as long as one of them does."""
    other = write_weights(tmp_path / "other", seed=1)
    kept = provision(other.as_uri(), options, lambda _: None)
    cache = Cache(options.cache)
    both = size_bytes(cache)
    os.utime(cache.marker(pulled.set_digest), (1_000_000, 1_000_000))
    assert collect(cache, max_bytes=both) == 0
    freed_bytes = collect(cache, max_bytes=both - 1)
    assert both - freed_bytes == size_bytes(cache)
    assert [cached.set_digest for cached in list_sets(cache)] == [kept.set_digest]
    assert provision(other.as_uri(), options, lambda _: None).from_cache
    collect(cache, max_bytes=0)
    assert list_sets(cache) == []
    assert size_bytes(cache) == 0
    assert contents(provision(origin.as_uri(), options, lambda _: None).folder) == expected(origin)
