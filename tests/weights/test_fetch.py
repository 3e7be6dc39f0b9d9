"""The plan, the patience and the part file, without a network."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavatube.errors import CacheUnusable, SourceUnavailable
from lavatube.weights import filesystems
from lavatube.weights.options import Policy
from lavatube.weights.parts import Part
from lavatube.weights.patience import Patience, Transient, parse_retry_after
from lavatube.weights.spans import Span, plan


def test_plan_takes_small_files_and_headers_first() -> None:
    spans = plan([25, 3, 12], [[0, 0, 0], [0], [0, 0]], 10)
    assert spans == [Span(1, 0, 3), Span(0, 0, 10), Span(2, 0, 10), Span(0, 10, 20), Span(2, 10, 12), Span(0, 20, 25)]


@given(st.data(), st.lists(st.integers(0, 100), max_size=5), st.integers(1, 30))
def test_plan_covers_what_is_missing_once(data: st.DataObject, sizes: list[int], chunk_bytes: int) -> None:
    done = [data.draw(st.lists(st.booleans(), min_size=n, max_size=n)) for n in (-(-s // chunk_bytes) for s in sizes)]
    spans = plan(sizes, done, chunk_bytes)
    asked = [(span.file, byte) for span in spans for byte in range(span.start, span.stop)]
    missing = [(f, byte) for f, size in enumerate(sizes) for byte in range(size) if not done[f][byte // chunk_bytes]]
    assert sorted(asked) == missing


def test_patience_counts_tries_in_a_row() -> None:
    patience = Patience("x.safetensors", Policy(max_tries=3, backoff_s=0.0), threading.Event())
    for _ in range(5):
        patience.fail(Transient("no"))
        patience.fail(Transient("no"))
        patience.renew()
    patience.fail(Transient("no"))
    patience.fail(Transient("no"))
    with pytest.raises(SourceUnavailable, match=r"x\.safetensors: no, 3 times in a row"):
        patience.fail(Transient("no"))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("3", 3.0), ("86400", 86400.0), (None, None), ("", None), ("soon", None), ("-1", None), ("1.5", None)],
)
def test_retry_after(text: str | None, seconds: float | None) -> None:
    assert parse_retry_after(text) == seconds


def test_retry_after_as_a_date() -> None:
    later = parse_retry_after(format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True))
    assert later is not None
    assert 28 < later <= 30
    assert parse_retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0


def test_a_long_retry_after_is_capped() -> None:
    stop = threading.Event()
    patience = Patience("x", Policy(max_wait_s=0.01, backoff_s=0.0), stop)
    patience.fail(Transient("busy", retry_after_s=86400.0))


class TestPart:
    def test_is_taken_up_again(self, tmp_path: Path) -> None:
        part = Part(tmp_path, "x", 25, 10)
        part.write(memoryview(b"0123456789"), 0)
        part.mark(0)
        part.close()
        again = Part(tmp_path, "x", 25, 10)
        assert list(again.done) == [1, 0, 0]
        assert b"".join(bytes(piece) for piece in again.read(0, 10, memoryview(bytearray(4)))) == b"0123456789"
        again.close()

    def test_memory_is_taken_as_it_is_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(filesystems, "file_system", lambda folder: "tmpfs")
        part = Part(tmp_path, "x", 1 << 20, 1 << 18)
        assert part.path.stat().st_size == 1 << 20
        assert part.path.stat().st_blocks == 0
        part.close()

    def test_another_grid_begins_anew(self, tmp_path: Path) -> None:
        part = Part(tmp_path, "x", 25, 10)
        part.mark(0)
        part.close()
        again = Part(tmp_path, "x", 25, 5)
        assert not any(again.done)
        again.close()

    def test_without_its_part_a_map_says_nothing(self, tmp_path: Path) -> None:
        part = Part(tmp_path, "x", 25, 10)
        part.mark(0)
        part.path.unlink()
        part.close()
        again = Part(tmp_path, "x", 25, 10)
        assert not any(again.done)
        again.close()

    def test_two_holders_never_share_one(self, tmp_path: Path) -> None:
        first, second = Part(tmp_path, "x", 25, 10), Part(tmp_path, "x", 25, 10)
        assert first.path != second.path
        first.close()
        second.close()

    def test_commit_is_read_only_and_leaves_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "parts").mkdir()
        part = Part(tmp_path / "parts", "x", 3, 10)
        part.write(memoryview(b"abc"), 0)
        part.commit(tmp_path / "ab" / "blob")
        part.close()
        assert (tmp_path / "ab" / "blob").read_bytes() == b"abc"
        assert (tmp_path / "ab" / "blob").stat().st_mode & 0o777 == 0o444
        assert not list((tmp_path / "parts").iterdir())

    def test_too_big_for_the_disk(self, tmp_path: Path) -> None:
        with pytest.raises(CacheUnusable):
            Part(tmp_path, "x", 1 << 60, 1 << 40)
        assert not list(tmp_path.glob("*.part"))
