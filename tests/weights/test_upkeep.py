"""`lavatube cache ls | rm | gc`: what is listed, what goes, and that nothing that is needed goes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lavatube.errors import CacheUnusable, InvalidSetting
from lavatube.weights.cache import Cache
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
