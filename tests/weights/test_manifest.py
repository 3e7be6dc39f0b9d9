"""The lock file: what is written is read back, and nothing hostile gets through."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavatube.errors import InvalidManifest, UnsupportedCheckpoint
from lavatube.weights.content import check_paths, is_content, select_content
from lavatube.weights.manifest import FILE_NAME, Manifest, ManifestFile, build_manifest, parse_manifest, read_manifest

DIGEST = "a" * 64
FILE = {"path": "model.safetensors", "size": 1, "sha256": DIGEST}
SEGMENT = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,10}", fullmatch=True)
HOSTILE = st.text(st.sampled_from("aA./\\:~ \0\n\x7f\u202eé%"), min_size=1, max_size=12)


def text_of(**changes: object) -> bytes:
    return json.dumps({"schema": 1, "name": "x", "files": [FILE], **changes}).encode()


def test_round_trip(origin: Path) -> None:
    manifest = build_manifest(origin, "weights")
    assert parse_manifest(manifest.to_json().encode(), "test") == manifest
    assert read_manifest(origin / FILE_NAME) == manifest


def test_set_digest_is_that_of_sha256sum(origin: Path) -> None:
    names = [file.path for file in build_manifest(origin).files]
    lines = subprocess.run(["sha256sum", *names], cwd=origin, capture_output=True, check=True).stdout
    ordered = b"".join(sorted(lines.splitlines(keepends=True)))
    digest = subprocess.run(["sha256sum"], input=ordered, capture_output=True, check=True).stdout.split()[0]
    assert build_manifest(origin).set_digest == digest.decode()


def test_set_digest_knows_contents_and_paths_but_no_name() -> None:
    one, two = ManifestFile("a.json", 1, "a" * 64), ManifestFile("b.json", 1, "b" * 64)
    swapped = (ManifestFile("a.json", 1, "b" * 64), ManifestFile("b.json", 1, "a" * 64))
    digest = Manifest("x", (one, two)).set_digest
    assert digest == Manifest("y", (two, one)).set_digest
    assert digest != Manifest("x", swapped).set_digest


@pytest.mark.parametrize(
    "path",
    [
        "../x.json", "/x.json", "a//b.json", "a/../b.json", "./a.json", "a/./b.json", "a.json/", "", "C:\\x.json",
        "C:x.json", "a\\b.json", "a\0.json", "a\n.json", "a\x7f.json", ".cog/x.json", ".x.json", "-x.json", "~/x.json",
        "é.json", "\u202ex.json", "a b.json", "x" * 201 + ".json", "/".join("abcdefghi") + ".json", "%2e%2e/x.json",
    ],
)  # fmt: skip
def test_unsafe_paths(path: str) -> None:
    with pytest.raises(InvalidManifest, match="not a safe relative path"):
        parse_manifest(text_of(files=[FILE, FILE | {"path": path}]), "test")


@pytest.mark.parametrize(
    "paths",
    [("a.json", "a.json"), ("a.json", "A.JSON"), ("a.json", "a.json/b.json"), ("a/b.json", "A"), ("a.json", "a.json.")],
)
@pytest.mark.parametrize("is_reversed", [False, True])
def test_colliding_paths(paths: tuple[str, str], is_reversed: bool) -> None:
    with pytest.raises(InvalidManifest, match="collides"):
        check_paths(reversed(paths) if is_reversed else paths, "test")


@given(st.lists(st.one_of(HOSTILE, st.lists(SEGMENT, min_size=1, max_size=4).map("/".join)), max_size=5))
def test_accepted_paths_stay_inside_and_apart(paths: list[str]) -> None:
    try:
        check_paths(paths, "test")
    except InvalidManifest:
        return
    for path in paths:
        assert os.path.normpath(f"/root/{path}") == f"/root/{path}"
        assert path.isascii()
        assert path.isprintable()
    assert len({path.lower() for path in paths}) == len(paths)
    parents = {str(parent).lower() for path in paths for parent in PurePosixPath(path).parents}
    assert not parents & {path.lower() for path in paths}


@given(st.lists(SEGMENT, min_size=1, max_size=8, unique_by=str.lower))
def test_plain_names_are_accepted(segments: list[str]) -> None:
    check_paths(["/".join(segments)], "test")


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_cleanly(data: bytes) -> None:
    with pytest.raises(InvalidManifest):
        parse_manifest(data, "test")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (text_of(schema=2), "schema 2"),
        (text_of(schema=True), "schema"),
        (text_of(schema="1"), "schema"),
        (text_of(extra=1), "keys"),
        (text_of(name=1), "name"),
        (text_of(name="a\nb"), "name"),
        (text_of(files=[]), "1 to 10000"),
        (text_of(files={}), "1 to 10000"),
        (text_of(files=[FILE] * 10_001), "1 to 10000"),
        (text_of(files=[FILE | {"size": -1}]), "impossible size"),
        (text_of(files=[FILE | {"size": 2**63}]), "impossible size"),
        (text_of(files=[FILE | {"size": 1.0}]), "impossible size"),
        (text_of(files=[FILE | {"size": True}]), "impossible size"),
        (text_of(files=[FILE | {"sha256": DIGEST.upper()}]), "sha256"),
        (text_of(files=[FILE | {"sha256": DIGEST + "\n"}]), "sha256"),
        (text_of(files=[FILE | {"path": 7}]), "not a string"),
        (text_of(files=[FILE | {"mode": 7}]), "keys"),
        (text_of(files=[FILE, FILE | {"path": "run.py"}]), "no kind of file"),
        (text_of(setDigest="0" * 64), "setDigest"),
        (b'{"schema": 1, "schema": 1, "name": "x", "files": []}', "comes twice"),
        (b'{"schema": NaN}', "NaN"),
        (b'{"schema": ' + b"1" * 5000 + b"}", "not a manifest"),
        (b"[" * 100_000, "not a manifest"),
        (b"\xff\xfe{}", "not a manifest"),
        (b" " * (8 * 1024 * 1024 + 1), "at most 8 MiB"),
    ],
)
def test_hostile_json(data: bytes, said: str) -> None:
    with pytest.raises(InvalidManifest) as caught:
        parse_manifest(data, "test")
    assert said in caught.value.sentence


def test_weights_in_other_files_have_a_remedy() -> None:
    with pytest.raises(UnsupportedCheckpoint, match="files of torch"):
        parse_manifest(text_of(files=[FILE | {"path": "consolidated.00.pth"}]), "test")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "mm_projector.bin"])
def test_weights_in_files_of_torch(name: str) -> None:
    assert select_content([name, "config.json", "training_args.bin", "optimizer.pt"], "test") == ["config.json", name]


def test_weights_are_not_fetched_twice() -> None:
    names = ["config.json", "model-1.safetensors", "pytorch_model-1.bin", "vision_tower/pytorch_model.bin"]
    assert select_content(names, "test") == ["config.json", "model-1.safetensors", "vision_tower/pytorch_model.bin"]


def test_companions_alone_are_no_checkpoint() -> None:
    with pytest.raises(UnsupportedCheckpoint, match="no weights"):
        select_content(["config.json", "base/model.safetensors"], "test")


def test_content() -> None:
    names = ["model.safetensors", "config.json", "chat_template.jinja", "merges.txt", "tokenizer.model"]
    others = ["README.md", "modeling_llava.py", "training_args.bin", ".gitattributes", FILE_NAME, "other.model"]
    assert [is_content(name) for name in names] == [True] * 5
    assert [is_content(name) for name in others] == [False] * 6
    assert select_content([*others, *names, "onnx/model.safetensors"], "test") == sorted(names)
