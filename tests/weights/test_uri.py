"""What MODEL may be."""

from __future__ import annotations

from pathlib import Path

import pytest

from lavatube.errors import InvalidSetting
from lavatube.weights.uri import EMBEDDED, ModelUri, parse_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("tiny", ModelUri("file", str(EMBEDDED))),
        ("org/name", ModelUri("hub", "org/name", "main")),
        ("hf://org/name", ModelUri("hub", "org/name", "main")),
        ("org/name@v1.5", ModelUri("hub", "org/name", "v1.5")),
        ("hf://org/name@refs/pr/1", ModelUri("hub", "org/name", "refs/pr/1")),
        (f"llava-hf/llava-1.5-7b-hf@{COMMIT}", ModelUri("hub", "llava-hf/llava-1.5-7b-hf", COMMIT)),
        ("https://cdn.example/llava/", ModelUri("http", "https://cdn.example/llava")),
        ("https://cdn.example/llava/lavatube.lock.json", ModelUri("http", "https://cdn.example/llava")),
        ("HTTPS://cdn.example:8443/llava?sig=x", ModelUri("http", "https://cdn.example:8443/llava?sig=x")),
    ],
)
def test_forms(text: str, uri: ModelUri) -> None:
    assert parse_model(text) == uri


def test_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "my model").mkdir(parents=True)
    folder = tmp_path / "org" / "my model"
    monkeypatch.chdir(tmp_path)
    assert parse_model(str(folder)) == ModelUri("folder", str(folder))
    assert parse_model("org/my model") == ModelUri("folder", str(folder))
    assert parse_model(folder.as_uri()) == ModelUri("file", str(folder))


def test_only_a_commit_is_immutable() -> None:
    assert parse_model(f"org/name@{COMMIT}").is_immutable
    assert not parse_model("org/name").is_immutable
    assert not parse_model(f"org/name@{COMMIT[:-1]}").is_immutable


def test_names() -> None:
    assert parse_model("llava-hf/llava-1.5-7b-hf").name == "llava-1.5-7b-hf"
    assert parse_model("https://cdn.example/models/llava/?sig=x").name == "llava"
    assert parse_model("tiny").name == "tiny"


@pytest.mark.parametrize(
    "text",
    [
        "", "name", "a/b/c", "../a", "./missing", "/missing", "~nobody-here/x", "org/name@", "org/../name",
        "or--g/name", "org/name@a..b", "org/na me", "org/name\n", "a\0b", "s3://", "gs:///x", "az://B/x", "oci://b/x",
        "ftp://h/x", "javascript://x", "file://host/x", "file:relative", "file:///missing", "https://", "https:///x",
        "https://user:pass@h/x", "https://h/x#f", "https://h:99999/x", "https://h/a b", "https://[::1/x", "hf://",
        "hf://name",
    ],
)  # fmt: skip
def test_refused(text: str) -> None:
    with pytest.raises(InvalidSetting):
        parse_model(text)


@pytest.mark.parametrize(
    ("text", "location", "file"),
    [
        ("s3://bucket", "s3://bucket", ""),
        ("gs://bucket/llava/", "gs://bucket/llava", ""),
        ("az://box/a/b/lavatube.lock.json", "az://box/a/b", ""),
        ("s3://bucket/a/model.safetensors", "s3://bucket/a", "model.safetensors"),
        ("https://h/a/llava.tar.gz?sig=1", "https://h/a?sig=1", "llava.tar.gz"),
        ("https://h/model.safetensors", "https://h", "model.safetensors"),
        ("https://h/a/config.json", "https://h/a/config.json", ""),
    ],
)
def test_one_file_and_buckets(text: str, location: str, file: str) -> None:
    model = parse_model(text)
    assert (model.location, model.file) == (location, file)
    assert model.is_archive == file.endswith(".tar.gz")
