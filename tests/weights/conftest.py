"""A folder of weights (their bytes need no meaning here), its manifest, and options that lose no time."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lavatube.weights.manifest import FILE_NAME, build_manifest
from lavatube.weights.options import Policy, ProvisionOptions
from lavatube.weights.provision import Provisioned, provision
from tests.cdn import Cdn

KIB = 1024
CHUNK = 256 * KIB
POLICY = Policy(
    chunk_bytes=CHUNK,
    connections=4,
    max_connections=4,
    race_after_s=60.0,
    max_tries=3,
    min_progress_bytes=32 * KIB,
    backoff_s=0.01,
    max_wait_s=1.5,
    read_timeout_s=3.0,
    lock_wait_s=30.0,
)
SIZES = {
    "config.json": 300,
    "empty.txt": 0,
    "tokenizer.json": 9_000,
    "model-00001-of-00002.safetensors": 9 * CHUNK + 12_345,
    "model-00002-of-00002.safetensors": 3 * CHUNK,
}
WEIGHTS = [name for name in SIZES if name.endswith(".safetensors")]


def with_policy(options: ProvisionOptions, **changes: float) -> ProvisionOptions:
    return replace(options, policy=replace(POLICY, **changes))


def write_weights(folder: Path, *, seed: int = 0) -> Path:
    """Random files and their manifest, and a file that is nobody's business."""
    folder.mkdir(parents=True)
    generator = random.Random(seed)
    for name, size in SIZES.items():
        (folder / name).write_bytes(generator.randbytes(size))
    (folder / "README.md").write_text("not fetched")
    (folder / FILE_NAME).write_text(build_manifest(folder, "weights").to_json())
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pull(uri: str, options: ProvisionOptions) -> Provisioned:
    """Provision, and tell nobody how far it is."""
    return provision(uri, options, lambda _: None)


def expected(origin: Path) -> dict[str, bytes]:
    return {name: (origin / name).read_bytes() for name in SIZES}


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file of many chunks, for a crowd of connections."""
    folder = tmp_path / "large"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(os.urandom(48 * CHUNK))
    (folder / FILE_NAME).write_text(build_manifest(folder, "large").to_json())
    return folder


@pytest.fixture(scope="session")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read-only by agreement: tests that break files copy it first."""
    return write_weights(tmp_path_factory.mktemp("origin") / "weights")


@pytest.fixture
def options(tmp_path: Path) -> ProvisionOptions:
    return ProvisionOptions(cache=tmp_path / "cache", policy=POLICY)


@pytest.fixture
def cdn(origin: Path) -> Iterator[Cdn]:
    with Cdn(origin) as server:
        yield server
