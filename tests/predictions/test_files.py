"""Uploaded files in a real database: bounded in size, sum and age, and each owner's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from lavatube.errors import BodyTooLarge, NotFound
from lavatube.predictions.files import FileLimits, FileStore
from lavatube.predictions.tables import metadata


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def files(tmp_path: Path, clock: Clock) -> Iterator[FileStore]:
    engine = create_engine(f"sqlite:///{tmp_path / 'lavatube.db'}")
    metadata.create_all(engine)
    yield FileStore(engine, FileLimits(max_bytes=100, max_total_bytes=250, max_age_s=3600), clock)
    engine.dispose()


def test_a_file_comes_back_as_it_was(files: FileStore) -> None:
    stored = files.add("me", "../../etc/passwd", "image/png", b"\x00\xff", {"a": [1, "é"]})
    assert files.get("me", stored.id) == stored
    assert files.read("me", stored.id) == b"\x00\xff"
    assert stored.metadata == {"a": [1, "é"]}
    assert stored.size_bytes == 2


def test_another_owners_file_is_not_there(files: FileStore) -> None:
    stored = files.add("me", "a", "a/b", b"x", {})
    for look in (files.get, files.read, files.remove):
        with pytest.raises(NotFound):
            look("you", stored.id)
    assert files.list("you", 10) == []
    assert files.read("me", stored.id) == b"x"


def test_the_newest_are_listed_first(files: FileStore, clock: Clock) -> None:
    names = ["a", "b", "c"]
    for name in names:
        clock.now += 1
        files.add("me", name, "a/b", b"x", {})
    assert [file.name for file in files.list("me", 2)] == ["c", "b"]


def test_too_large_a_file_is_refused(files: FileStore) -> None:
    with pytest.raises(BodyTooLarge):
        files.add("me", "a", "a/b", b"x" * 101, {})


def test_one_owners_files_have_a_bound_together(files: FileStore) -> None:
    first = files.add("me", "a", "a/b", b"x" * 100, {})
    files.add("me", "b", "a/b", b"x" * 100, {})
    with pytest.raises(BodyTooLarge, match="together"):
        files.add("me", "c", "a/b", b"x" * 100, {})
    files.add("you", "c", "a/b", b"x" * 100, {})
    files.remove("me", first.id)
    files.add("me", "c", "a/b", b"x" * 100, {})


def test_files_expire_and_make_room(files: FileStore, clock: Clock) -> None:
    stored = files.add("me", "a", "a/b", b"x" * 100, {})
    files.add("me", "b", "a/b", b"x" * 100, {})
    clock.now += 3601
    with pytest.raises(NotFound):
        files.get("me", stored.id)
    assert files.list("me", 10) == []
    files.add("me", "c", "a/b", b"x" * 100, {})
