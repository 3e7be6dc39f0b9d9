"""A checkpoint whose tower or base lies in another repository arrives as one folder, however it is provisioned."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lavatube.errors import DigestMismatch, SourceUnavailable, UnsupportedCheckpoint, UntrustedSource
from lavatube.weights.cache import Cache
from lavatube.weights.manifest import build_manifest
from lavatube.weights.options import ProvisionOptions
from lavatube.weights.provision import Progress, lock_model, provision
from lavatube.weights.upkeep import collect
from tests.cdn import Cdn
from tests.hub import FakeHub
from tests.weights.conftest import contents, pull

TOWER = {"config.json": b"{}", "preprocessor_config.json": b"{ }", "pytorch_model.bin": b"tower" * 1000}
BASE = {"config.json": b"{}", "tokenizer.model": b"pieces", "pytorch_model.bin": b"base" * 1000}
MAIN = {"model.safetensors": b"weights" * 1000, "tokenizer.model": b"own pieces"}
LORA = {"adapter_model.bin": b"adapter", "non_lora_trainables.bin": b"projector"}
ADAPTER = {"base_model_name_or_path": "lmsys/base"}


def write(folder: Path, files: dict[str, bytes], **config: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def main(tmp_path: Path) -> Path:
    return write(tmp_path / "main", MAIN, mm_vision_tower="openai/clip")


@pytest.fixture
def hub(tmp_path: Path, main: Path) -> Iterator[FakeHub]:
    with Cdn(main) as cdn, FakeHub(cdn) as server:
        server.others["openai/clip"] = write(tmp_path / "clip", TOWER | {"flax_model.msgpack": b"not wanted"})
        server.others["lmsys/base"] = write(tmp_path / "vicuna", BASE)
        yield server


@pytest.fixture
def options(options: ProvisionOptions, hub: FakeHub) -> ProvisionOptions:
    return dataclasses.replace(options, hf_endpoint=hub.root)


def whole(main: Path) -> dict[str, bytes]:
    config = {"config.json": (main / "config.json").read_bytes()}
    return MAIN | config | {f"vision_tower/{name}": data for name, data in TOWER.items()}


def test_both_from_the_hub(main: Path, options: ProvisionOptions) -> None:
    first, second = pull("org/name", options), pull("org/name", options)
    assert contents(first.folder) == whole(main)
    assert (first.trust, first.from_cache, second.from_cache) == ("hub", False, True)
    assert (second.folder, second.set_digest) == (first.folder, first.set_digest)
    assert first.total_bytes == sum(map(len, whole(main).values()))


@pytest.mark.parametrize("is_staging", [False, True])
def test_both_make_one_progress(main: Path, options: ProvisionOptions, is_staging: bool) -> None:
    heard: list[Progress] = []
    staged = dataclasses.replace(options, on_staged=lambda _: None) if is_staging else options
    total_bytes = provision("org/name", staged, heard.append).total_bytes
    done = [progress.done_bytes for progress in heard]
    assert done == sorted(done)
    assert done[-2] == total_bytes
    totals = [progress.total_bytes for progress in heard if progress.total_bytes]
    assert totals[-1] == total_bytes
    assert not is_staging or totals[0] >= max(len(data) for data in MAIN.values())


def test_a_joined_set_survives_the_collection(main: Path, options: ProvisionOptions) -> None:
    folder = pull("org/name", options).folder
    collect(Cache(options.cache), part_age_s=0.0)
    assert contents(folder) == whole(main)


def test_a_folder_of_this_machine_is_not_written_to(main: Path, options: ProvisionOptions) -> None:
    before = contents(main)
    first, second = pull(str(main), options), pull(str(main), options)
    assert contents(main) == before
    assert {name: (first.folder / name).read_bytes() for name in whole(main)} == whole(main)
    assert (first.folder, first.trust, first.set_digest) == (second.folder, "local", "")


def test_links_that_lead_nowhere_are_collected(main: Path, options: ProvisionOptions) -> None:
    folder, cache = pull(str(main), options).folder, Cache(options.cache)
    collect(cache)
    assert folder.is_dir()
    (main / "model.safetensors").unlink()
    collect(cache)
    assert not folder.exists()


def test_a_folder_that_has_its_tower_is_used_in_place(main: Path, options: ProvisionOptions, hub: FakeHub) -> None:
    write(main / "vision_tower", TOWER)
    assert pull(str(main), options).folder == main
    assert hub.log.requests == []


def test_the_manifest_of_a_folder_covers_its_tower(main: Path, options: ProvisionOptions) -> None:
    write(main / "vision_tower", TOWER)
    assert {file.path for file in build_manifest(main).files} == whole(main).keys()
    provisioned = pull(main.as_uri(), options)
    assert contents(provisioned.folder) == whole(main)


def test_a_tower_in_the_checkpoint_is_not_fetched(main: Path, options: ProvisionOptions, hub: FakeHub) -> None:
    write(main, {}, mm_vision_tower="openai/clip", unfreeze_mm_vision_tower=True)
    pull("org/name", options)
    assert not any("openai" in request.name for request in hub.log.requests)


@pytest.mark.parametrize("uri", ["org/name", "folder"])
def test_an_adapter_has_its_base_and_the_tokenizer_of_it(
    main: Path, options: ProvisionOptions, tmp_path: Path, uri: str
) -> None:
    for name in MAIN:
        (main / name).unlink()
    write(main, LORA | {"adapter_config.json": json.dumps(ADAPTER).encode()})
    folder = pull(str(main) if uri == "folder" else uri, options).folder
    expected = LORA | {f"base/{name}": data for name, data in BASE.items()}
    expected |= {f"vision_tower/{name}": data for name, data in TOWER.items()} | {"tokenizer.model": b"pieces"}
    assert {name: (folder / name).read_bytes() for name in expected} == expected


def elsewhere(options: ProvisionOptions, lock: Path, name: str = "fresh") -> ProvisionOptions:
    """Another machine, which has the lock file and an empty cache."""
    return dataclasses.replace(options, lock=lock, cache=options.cache.parent / name)


def test_a_lock_must_cover_the_parts(main: Path, options: ProvisionOptions, tmp_path: Path) -> None:
    lock = tmp_path / "main.lock.json"
    lock.write_text(build_manifest(main).to_json())
    with pytest.raises(UntrustedSource, match="openai/clip, which the lock file says nothing of"):
        pull("org/name", dataclasses.replace(options, lock=lock))


@pytest.mark.parametrize("kind", ["tower", "adapter"])
def test_a_lock_brings_every_part_from_its_own_repository(
    main: Path, options: ProvisionOptions, tmp_path: Path, hub: FakeHub, kind: str
) -> None:
    if kind == "adapter":
        for name in MAIN:
            (main / name).unlink()
        write(main, LORA | {"adapter_config.json": json.dumps(ADAPTER).encode()})
    lock = tmp_path / "whole.lock.json"
    lock.write_text(lock_model("org/name", options, lambda _: None).to_json())
    expected, there = contents(pull("org/name", options).folder), elsewhere(options, lock)
    first = pull("org/name", there)
    assert (contents(first.folder), first.trust, first.from_cache) == (expected, "pinned", False)
    num_requests = len(hub.log.requests)
    second = pull("org/name", there)
    assert (second.folder, second.from_cache, len(hub.log.requests)) == (first.folder, True, num_requests)


def test_a_part_that_is_not_the_locked_one_is_refused(
    main: Path, options: ProvisionOptions, tmp_path: Path, hub: FakeHub
) -> None:
    lock = tmp_path / "whole.lock.json"
    lock.write_text(lock_model("org/name", options, lambda _: None).to_json())
    (hub.others["openai/clip"] / "pytorch_model.bin").write_bytes(b"rower" * 1000)
    with pytest.raises(DigestMismatch, match=r"pytorch_model\.bin"):
        pull("org/name", elsewhere(options, lock))


def test_a_lock_that_lists_more_than_there_is(main: Path, options: ProvisionOptions, tmp_path: Path) -> None:
    write(main / "vision_tower", TOWER)
    write(main, {"extra.json": b"{}"})
    lock = tmp_path / "more.lock.json"
    lock.write_text(build_manifest(main).to_json())
    shutil.rmtree(main / "vision_tower")
    (main / "extra.json").unlink()
    with pytest.raises(SourceUnavailable, match=r"has no extra\.json, which the lock file lists"):
        pull("org/name", elsewhere(options, lock))


def test_a_tower_that_the_hub_does_not_have(main: Path, options: ProvisionOptions) -> None:
    write(main, {}, mm_vision_tower="nobody/nothing")
    with pytest.raises(SourceUnavailable, match="nobody/nothing"):
        pull(str(main), options)


@pytest.mark.parametrize(
    "reference", ["/data/clip", "../../clip", "clip", "hf://", "https://evil.example/clip", "a/b/c"]
)
def test_a_reference_that_is_no_repository(main: Path, options: ProvisionOptions, hub: FakeHub, reference: str) -> None:
    write(main, {}, mm_vision_tower=reference)
    (main.parent / "clip" / "config.json").unlink()
    with pytest.raises(UnsupportedCheckpoint, match="which is not here"):
        pull(str(main), options)
    assert hub.log.requests == []
