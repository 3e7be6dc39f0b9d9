"""From MODEL to a folder: each kind of source, trust, warm starts, and what a damaged cache leads to."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lavatube.errors import (
    CacheUnusable,
    DigestMismatch,
    InvalidManifest,
    InvalidSetting,
    SourceUnavailable,
    UnsupportedCheckpoint,
    UntrustedSource,
)
from lavatube.weights.cache import Cache
from lavatube.weights.chunk_map import LANDED, MapHead
from lavatube.weights.manifest import FILE_NAME, Manifest, ManifestFile, build_manifest, read_manifest
from lavatube.weights.options import ProvisionOptions
from lavatube.weights.provision import Progress, lock_model, provision
from lavatube.weights.tensors import open_tensors
from tests.cdn import Cdn
from tests.hub import COMMIT, TOKEN, FakeHub
from tests.weights.conftest import SIZES, contents, expected, pull, write_weights

SHARD = "model-00002-of-00002.safetensors"


@pytest.fixture
def folder(origin: Path, tmp_path: Path) -> Path:
    """A copy of the origin that a test may break."""
    return Path(shutil.copytree(origin, tmp_path / "copy"))


@pytest.fixture
def hub(cdn: Cdn, options: ProvisionOptions) -> Iterator[FakeHub]:
    with FakeHub(cdn) as server:
        yield server


def hub_options(options: ProvisionOptions, hub: FakeHub, token: str = "") -> ProvisionOptions:
    return dataclasses.replace(options, hf_endpoint=hub.root, hf_token=token)


class TestFolder:
    def test_is_used_in_place_and_never_written_to(self, folder: Path, options: ProvisionOptions) -> None:
        before = {path.name: path.stat().st_mtime_ns for path in [folder, *folder.iterdir()]}
        provisioned = pull(str(folder), options)
        assert provisioned.folder == folder
        assert provisioned.trust == "local"
        assert provisioned.total_bytes == sum(SIZES.values())
        assert {path.name: path.stat().st_mtime_ns for path in [folder, *folder.iterdir()]} == before
        assert not options.cache.exists()

    def test_a_cut_file_is_seen_by_its_size(self, folder: Path, options: ProvisionOptions) -> None:
        os.truncate(folder / SHARD, 1000)
        with pytest.raises(DigestMismatch, match=f"{SHARD} has 1000 bytes"):
            pull(str(folder), options)

    def test_the_log_says_that_a_manifest_beside_it_is_not_hashed_unless_asked(
        self, folder: Path, options: ProvisionOptions, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        flip_bit(folder / SHARD)
        assert pull(str(folder), options).trust == "local"
        assert f"{folder / FILE_NAME}: its files have the sizes that it lists" in caplog.text
        with pytest.raises(DigestMismatch, match=SHARD):
            pull(str(folder), dataclasses.replace(options, is_thorough=True))

    def test_pinned_is_hashed_once(self, folder: Path, options: ProvisionOptions) -> None:
        options = dataclasses.replace(options, lock=folder / FILE_NAME)
        first: list[Progress] = []
        assert provision(str(folder), options, first.append).trust == "pinned"
        second: list[Progress] = []
        assert provision(str(folder), options, second.append).trust == "pinned"
        assert "verifying" in {report.phase for report in first}
        assert "verifying" not in {report.phase for report in second}

    def test_pinned_finds_one_changed_bit(self, folder: Path, options: ProvisionOptions) -> None:
        options = dataclasses.replace(options, lock=folder / FILE_NAME)
        pull(str(folder), options)
        flip_bit(folder / SHARD)
        with pytest.raises(DigestMismatch, match=SHARD):
            pull(str(folder), options)

    def test_other_files_of_torch_are_refused_with_a_remedy(self, tmp_path: Path, options: ProvisionOptions) -> None:
        (tmp_path / "consolidated.00.pth").write_bytes(b"\x80\x02")
        with pytest.raises(UnsupportedCheckpoint) as caught:
            pull(str(tmp_path), options)
        assert ".safetensors" in caught.value.remedy

    def test_empty(self, tmp_path: Path, options: ProvisionOptions) -> None:
        with pytest.raises(UnsupportedCheckpoint, match="no weights"):
            pull(str(tmp_path), options)


class TestFile:
    def test_goes_through_the_cache(self, folder: Path, options: ProvisionOptions) -> None:
        provisioned = pull(folder.as_uri(), options)
        assert provisioned.trust == "manifest"
        assert provisioned.set_digest == build_manifest(folder).set_digest
        assert contents(provisioned.folder) == expected(folder)
        assert pull(folder.as_uri(), options) == dataclasses.replace(provisioned, from_cache=True)

    def test_without_a_manifest_is_hashed_on_the_way(self, folder: Path, options: ProvisionOptions) -> None:
        digest = read_manifest(folder / FILE_NAME).set_digest
        (folder / FILE_NAME).unlink()
        first, second = pull(folder.as_uri(), options), pull(folder.as_uri(), options)
        assert (first.trust, first.set_digest, first.from_cache) == ("local", digest, False)
        assert (second.trust, second.set_digest, second.from_cache) == ("local", digest, True)

    def test_a_change_without_a_manifest_is_another_set(self, folder: Path, options: ProvisionOptions) -> None:
        (folder / FILE_NAME).unlink()
        first = pull(folder.as_uri(), options)
        flip_bit(folder / SHARD)
        second = pull(folder.as_uri(), options)
        assert first.set_digest != second.set_digest
        assert contents(second.folder) == expected(folder)

    def test_a_wrong_bit_is_named(self, folder: Path, options: ProvisionOptions) -> None:
        flip_bit(folder / SHARD)
        with pytest.raises(DigestMismatch, match=SHARD):
            pull(folder.as_uri(), options)

    def test_a_missing_file_is_named(self, folder: Path, options: ProvisionOptions) -> None:
        (folder / SHARD).unlink()
        with pytest.raises(SourceUnavailable, match=SHARD):
            pull(folder.as_uri(), options)

    def test_a_manifest_that_wants_out_is_refused(self, folder: Path, options: ProvisionOptions) -> None:
        text = (folder / FILE_NAME).read_text().replace('"config.json"', '"../config.json"')
        (folder / FILE_NAME).write_text(text)
        with pytest.raises(InvalidManifest, match="not a safe relative path"):
            pull(folder.as_uri(), options)
        assert not options.cache.exists()


class TestHub:
    def test_branch_becomes_a_commit(self, hub: FakeHub, cdn: Cdn, origin: Path, options: ProvisionOptions) -> None:
        provisioned = pull("org/name", hub_options(options, hub))
        assert provisioned.trust == "hub"
        assert provisioned.source == f"hf://org/name@{COMMIT}"
        assert contents(provisioned.folder) == expected(origin)
        assert {request.name for request in cdn.log.requests} == {n for n in SIZES if n.endswith(".safetensors")}

    def test_token_stays_with_the_hub(self, cdn: Cdn, origin: Path, options: ProvisionOptions) -> None:
        with FakeHub(cdn, is_gated=True) as hub:
            with pytest.raises(SourceUnavailable, match="HF_TOKEN"):
                pull("org/name", hub_options(options, hub))
            assert contents(pull("org/name", hub_options(options, hub, TOKEN)).folder) == expected(origin)
            assert {request.headers.get("Authorization") for request in hub.log.requests[1:]} == {f"Bearer {TOKEN}"}
        assert cdn.log.requests
        assert not [request for request in cdn.log.requests if TOKEN in str(request.headers)]

    def test_commit_needs_no_network_when_warm(self, hub: FakeHub, origin: Path, options: ProvisionOptions) -> None:
        uri = f"hf://org/name@{COMMIT}"
        first = pull(uri, hub_options(options, hub))
        seen = len(hub.log.requests)
        assert pull(uri, hub_options(options, hub)) == dataclasses.replace(first, from_cache=True)
        assert len(hub.log.requests) == seen

    def test_branch_costs_one_request_when_warm(self, hub: FakeHub, options: ProvisionOptions) -> None:
        pull("org/name", hub_options(options, hub))
        seen = len(hub.log.requests)
        assert pull("org/name", hub_options(options, hub)).from_cache
        assert len(hub.log.requests) - seen == 1

    def test_hub_that_is_down_leaves_what_it_had(self, cdn: Cdn, options: ProvisionOptions) -> None:
        with FakeHub(cdn) as hub:
            first = pull("org/name", hub_options(options, hub))
        assert pull("org/name", hub_options(options, hub)) == dataclasses.replace(first, from_cache=True)

    def test_small_file_is_checked_by_its_git_id(self, hub: FakeHub, options: ProvisionOptions) -> None:
        hub.git_sha1["tokenizer.json"] = "f" * 40
        with pytest.raises(DigestMismatch, match=r"tokenizer\.json .* git blob id .* f{40} was expected"):
            pull("org/name", hub_options(options, hub))

    def test_signed_addresses_are_not_shown(self, cdn: Cdn, options: ProvisionOptions) -> None:
        with FakeHub(cdn, scenario="404") as hub, pytest.raises(SourceUnavailable) as caught:
            pull("org/name", hub_options(options, hub))
        assert "X-Signature" not in caught.value.sentence
        assert "secret" not in caught.value.sentence

    def test_unknown_repository(self, hub: FakeHub, options: ProvisionOptions) -> None:
        with pytest.raises(SourceUnavailable, match="no model org/other"):
            pull("org/other", hub_options(options, hub))

    def test_pinned_takes_only_what_the_lock_names(
        self, hub: FakeHub, folder: Path, options: ProvisionOptions, tmp_path: Path
    ) -> None:
        lock = tmp_path / "own.lock.json"
        whole = read_manifest(folder / FILE_NAME)
        lock.write_text(Manifest("own", tuple(f for f in whole.files if f.path != "empty.txt")).to_json())
        provisioned = pull("org/name", dataclasses.replace(hub_options(options, hub), lock=lock))
        assert provisioned.trust == "pinned"
        assert set(contents(provisioned.folder)) == set(SIZES) - {"empty.txt"}


class TestPinned:
    def test_warm_needs_no_source(self, origin: Path, options: ProvisionOptions) -> None:
        options = dataclasses.replace(options, lock=origin / FILE_NAME)
        with Cdn(origin) as server:
            first = pull(server.url("bare"), options)
        assert first.trust == "pinned"
        assert pull(server.url("bare"), options) == dataclasses.replace(first, from_cache=True)

    def test_other_content_is_refused(self, cdn: Cdn, options: ProvisionOptions, tmp_path: Path) -> None:
        other = write_weights(tmp_path / "other", seed=1)
        with pytest.raises(DigestMismatch):
            pull(cdn.url("ok"), dataclasses.replace(options, lock=other / FILE_NAME))

    def test_unverified_is_not_remembered_as_trusted(self, origin: Path, options: ProvisionOptions) -> None:
        with Cdn(origin) as server, pytest.raises(UntrustedSource):
            pull(server.url("bare"), dataclasses.replace(options))


class TestCacheDamage:
    def test_two_sets_share_their_blobs(self, folder: Path, options: ProvisionOptions) -> None:
        pull(folder.as_uri(), options)
        (folder / "config.json").write_bytes(b"{}")
        (folder / FILE_NAME).write_text(build_manifest(folder).to_json())
        (folder / SHARD).rename(folder / "away")  # it must not be read again
        assert contents(pull(folder.as_uri(), options).folder)["config.json"] == b"{}"

    def test_a_blob_that_changed_is_not_passed_on_to_another_set(self, folder: Path, options: ProvisionOptions) -> None:
        first = pull(folder.as_uri(), options)
        flip_bit((first.folder / SHARD).resolve())
        (folder / "config.json").write_text('{"other": "set"}')
        (folder / FILE_NAME).write_text(build_manifest(folder, "other").to_json())
        second = pull(folder.as_uri(), options)
        assert second.set_digest != first.set_digest
        assert (second.folder / SHARD).read_bytes() == (folder / SHARD).read_bytes()

    @pytest.mark.parametrize("how", ["flip", "cut", "remove", "replace"])
    def test_damage_is_found_and_mended(self, how: str, folder: Path, options: ProvisionOptions) -> None:
        provisioned = pull(folder.as_uri(), options)
        target = provisioned.folder / SHARD
        if how == "flip":
            flip_bit(target)
        elif how == "cut":
            os.truncate(target, 100)
        else:
            target.unlink()
        if how == "replace":
            target.write_bytes(b"x" * SIZES[SHARD])
        again = pull(folder.as_uri(), options)
        assert contents(again.folder) == expected(folder)
        assert pull(folder.as_uri(), options).from_cache

    def test_touched_but_intact_is_verified_once(self, folder: Path, options: ProvisionOptions) -> None:
        provisioned = pull(folder.as_uri(), options)
        os.utime(provisioned.folder / SHARD, ns=(0, 0))
        reports: list[Progress] = []
        assert provision(folder.as_uri(), options, reports.append).from_cache
        assert "verifying" in {report.phase for report in reports}
        reports.clear()
        provision(folder.as_uri(), options, reports.append)
        assert "verifying" not in {report.phase for report in reports}

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"source": "x", "manifest": {}, "stamps": {}}', "\0"])
    def test_a_foreign_marker_counts_for_nothing(self, text: str, folder: Path, options: ProvisionOptions) -> None:
        provisioned = pull(folder.as_uri(), options)
        Cache(options.cache).marker(provisioned.set_digest).write_text(text)
        assert contents(pull(folder.as_uri(), options).folder) == expected(folder)

    def test_part_with_a_lying_map_is_fetched_again(self, cdn: Cdn, origin: Path, options: ProvisionOptions) -> None:
        """As after a loss of power: the map says that everything is there, and the part is zeros."""
        ready = pull(cdn.url("ok"), options).folder
        cdn.log.requests.clear()
        cache = Cache(options.cache)
        file = next(file for file in read_manifest(origin / FILE_NAME).files if file.path == SHARD)
        cache.blob(file.sha256).unlink()
        (ready / SHARD).unlink()
        (cache.parts / f"{file.sha256}.part").write_bytes(bytes(file.size))
        head = MapHead(file.size, options.policy.chunk_bytes)
        (cache.parts / f"{file.sha256}.map").write_bytes(head.pack() + LANDED * 3)
        assert contents(pull(cdn.url("ok"), options).folder) == expected(origin)
        assert [request.name for request in cdn.log.weights()] == [SHARD] * 3

    def test_no_space_is_said_before_the_first_byte(self, cdn: Cdn, options: ProvisionOptions, tmp_path: Path) -> None:
        lock = tmp_path / "huge.json"
        lock.write_text(Manifest("huge", (ManifestFile(SHARD, 1 << 50, "0" * 64),)).to_json())
        with pytest.raises(CacheUnusable, match=r"needs 1,073,741,824\.0 MiB more and has [\d,.]+ MiB free"):
            pull(cdn.url("ok"), dataclasses.replace(options, lock=lock))
        assert not cdn.log.weights()

    def test_cache_that_everybody_may_write_is_refused(self, folder: Path, options: ProvisionOptions) -> None:
        options.cache.mkdir()
        options.cache.chmod(0o777)
        with pytest.raises(CacheUnusable, match="everybody"):
            pull(folder.as_uri(), options)

    def test_cache_that_is_a_file(self, folder: Path, options: ProvisionOptions) -> None:
        options.cache.write_text("")
        with pytest.raises(CacheUnusable):
            pull(folder.as_uri(), options)


class TestLock:
    def test_of_a_folder(self, folder: Path, options: ProvisionOptions) -> None:
        reports: list[Progress] = []
        manifest = lock_model(str(folder), options, reports.append)
        assert manifest.set_digest == read_manifest(folder / FILE_NAME).set_digest
        assert {report.phase for report in reports} == {"verifying"}

    def test_of_a_source(self, cdn: Cdn, origin: Path, options: ProvisionOptions) -> None:
        manifest = lock_model(cdn.url("ok"), options, lambda _: None)
        assert manifest == build_manifest(origin, "weights", chunk_bytes=options.policy.chunk_bytes)
        assert manifest.set_digest == read_manifest(origin / FILE_NAME).set_digest


def test_embedded_model_goes_the_same_road(options: ProvisionOptions) -> None:
    provisioned = pull("tiny", options)
    assert provisioned.folder.parent.parent == options.cache
    assert open_tensors(provisioned.folder).names
    assert pull("tiny", options).from_cache


def test_missing_lock_file(folder: Path, options: ProvisionOptions) -> None:
    with pytest.raises(InvalidManifest, match="can't be read"):
        pull(str(folder), dataclasses.replace(options, lock=folder / "no.json"))


def test_unknown_scheme(options: ProvisionOptions) -> None:
    with pytest.raises(InvalidSetting, match=r"can't read oci://"):
        pull("oci://bucket/llava", options)


def flip_bit(path: Path) -> None:
    """Also in a read-only file, as a disk does."""
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def test_what_a_server_is_told_of_its_weights_is_in_its_log(folder: Path, options: ProvisionOptions) -> None:
    """`serve` has its weights brought by another process, whose log is its own."""
    (folder / FILE_NAME).write_text(build_manifest(folder).to_json())
    command = [sys.executable, "-P", "-m", "lavatube.cli", "pull", "--json", "--stage", str(folder)]
    run = subprocess.run([*command, "--cache", str(options.cache)], check=True, capture_output=True, text=True)
    assert json.loads(run.stdout.splitlines()[-1])["trust"] == "local"
    assert "INFO weights: " in run.stderr
    assert "--verify full, or --lock, hashes them" in run.stderr
    assert "trust local" in run.stderr
