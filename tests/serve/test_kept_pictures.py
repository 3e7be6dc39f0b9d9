"""What is kept of pictures is bounded, and the longest unused goes first."""

from __future__ import annotations

from lavatube.serve.kept_pictures import KeptPictures


def test_a_picture_is_kept_once() -> None:
    pictures = KeptPictures(max_bytes=10)
    for _ in range(5):
        pictures.keep({"a": "12345"})
    assert (pictures.find("a"), pictures.size_bytes) == ("12345", 5)


def test_the_longest_unused_is_forgotten() -> None:
    pictures = KeptPictures(max_bytes=10)
    pictures.keep({"a": "12345", "b": "12345"})
    assert pictures.find("a")
    pictures.keep({"c": "12345"})
    assert [pictures.find(name) for name in "abc"] == ["12345", None, "12345"]
    pictures.keep({"large": "1" * 11})
    assert (pictures.find("large"), pictures.size_bytes) == (None, 0)
