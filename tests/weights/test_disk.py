"""A full disk, a cache that goes away, a clock that jumps: the next start is none the worse."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import time
from pathlib import Path

import pytest

from lavatube.errors import CacheUnusable
from lavatube.weights import filesystems
from lavatube.weights.cache import Cache
from lavatube.weights.options import ProvisionOptions
from lavatube.weights.provision import Progress, provision
from lavatube.weights.upkeep import collect
from tests.cdn import Cdn
from tests.weights.conftest import SIZES, WEIGHTS, contents, expected, pull

WEIGHT_BYTES = sum(SIZES[name] for name in WEIGHTS)


def test_full_before_the_first_byte(
    cdn: Cdn, origin: Path, options: ProvisionOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fallocate(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", fallocate)
        patch.setattr(filesystems, "IN_MEMORY", ())
        with pytest.raises(CacheUnusable, match="No space left") as caught:
            pull(cdn.url("ok"), options)
    assert "Free some space" in caught.value.remedy
    assert not cdn.log.weights()
    assert not list((options.cache / "parts").iterdir())
    assert contents(pull(cdn.url("ok"), options).folder) == expected(origin)


def test_full_in_the_middle(cdn: Cdn, origin: Path, options: ProvisionOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where space can't be reserved, or the quota is met."""
    write, left = os.pwrite, [WEIGHT_BYTES // 2]

    def pwrite(descriptor: int, data: memoryview, offset: int) -> int:
        left[0] -= len(data)
        if left[0] < 0:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        return write(descriptor, data, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        with pytest.raises(CacheUnusable, match="can't be written"):
            pull(cdn.url("ok"), options)
    assert not list(options.cache.glob("trees/*"))
    assert contents(pull(cdn.url("ok"), options).folder) == expected(origin)


def test_the_cache_is_deleted_meanwhile(cdn: Cdn, origin: Path, options: ProvisionOptions) -> None:
    def delete(progress: Progress) -> None:
        if progress.phase == "fetching" and options.cache.exists() and cdn.log.sent_bytes > 0:
            shutil.rmtree(options.cache)

    with pytest.raises(CacheUnusable):
        provision(cdn.url("slow"), options, delete)
    assert contents(pull(cdn.url("ok"), options).folder) == expected(origin)


def test_a_mapped_set_outlives_its_cache(cdn: Cdn, origin: Path, options: ProvisionOptions) -> None:
    folder = pull(cdn.url("ok"), options).folder
    with (folder / WEIGHTS[0]).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        shutil.rmtree(options.cache)
        assert mapped[:] == (origin / WEIGHTS[0]).read_bytes()


def test_the_clock_is_set_back(
    cdn: Cdn, origin: Path, options: ProvisionOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By years, in the middle: what waits and measures goes by another clock, and ages are never negative."""
    real = time.time

    def jump(progress: Progress) -> None:
        monkeypatch.setattr(time, "time", lambda: real() - 1e9)

    assert contents(provision(cdn.url("slow"), options, jump).folder) == expected(origin)
    assert collect(Cache(options.cache)) == 0
    assert pull(cdn.url("ok"), options).from_cache
