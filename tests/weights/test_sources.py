"""The other places that weights come from: memory, one file, mirrors, and what the hub's library has already."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tarfile
from pathlib import Path

import pytest

from lavatube.errors import DigestMismatch, InvalidManifest, SourceUnavailable, UntrustedSource
from lavatube.weights.manifest import FILE_NAME, build_manifest, read_manifest
from lavatube.weights.memory import memory_source
from lavatube.weights.options import ProvisionOptions
from lavatube.weights.provision import provision_source
from tests.cdn import Cdn
from tests.hub import COMMIT, FakeHub
from tests.weights.conftest import CHUNK, SIZES, contents, expected, pull, with_policy, write_weights

SHARD = "model-00002-of-00002.safetensors"
NUM_CHUNKS = 10 + 3
LONG = "model-00001-of-00002.safetensors"


@pytest.fixture
def chunked(tmp_path: Path) -> Path:
    """The same weights, whose manifest has the digests of chunks too."""
    folder = write_weights(tmp_path / "chunked")
    manifest = build_manifest(folder, "weights", chunk_bytes=CHUNK)
    (folder / FILE_NAME).write_text(manifest.to_json())
    return folder


class TestMemory:
    def test_goes_through_the_cache(self, origin: Path, options: ProvisionOptions) -> None:
        source = memory_source("weights", expected(origin) | {"README.md": b"no"})
        provisioned = provision_source(source, options, lambda _: None)
        assert provisioned.trust == "local"
        assert contents(provisioned.folder) == expected(origin)

    def test_a_file_that_is_not_there(self, origin: Path, options: ProvisionOptions) -> None:
        files = expected(origin)
        source = memory_source("weights", files)
        del files[SHARD]
        with pytest.raises(SourceUnavailable, match=SHARD):
            provision_source(source, options, lambda _: None)


class TestOneFile:
    def test_with_the_manifest_beside_it(self, cdn: Cdn, origin: Path, options: ProvisionOptions) -> None:
        provisioned = pull(f"{cdn.url('ok')}/{SHARD}", options)
        assert provisioned.trust == "manifest"
        assert contents(provisioned.folder) == {SHARD: (origin / SHARD).read_bytes()}
        assert {request.name for request in cdn.log.requests} == {FILE_NAME, SHARD}

    def test_without_one(self, cdn: Cdn, options: ProvisionOptions) -> None:
        with pytest.raises(UntrustedSource):
            pull(f"{cdn.url('bare')}/{SHARD}", options)
        provisioned = pull(f"{cdn.url('bare')}/{SHARD}", dataclasses.replace(options, allow_unverified=True))
        assert (provisioned.trust, set(contents(provisioned.folder))) == ("unverified", {SHARD})

    def test_that_the_manifest_does_not_list(self, cdn: Cdn, options: ProvisionOptions) -> None:
        with pytest.raises(InvalidManifest, match="does not list"):
            pull(f"{cdn.url('ok')}/other.safetensors", options)

    def test_of_this_machine(self, origin: Path, options: ProvisionOptions) -> None:
        provisioned = pull(f"{origin.as_uri()}/{SHARD}", options)
        assert contents(provisioned.folder) == {SHARD: (origin / SHARD).read_bytes()}


class TestMirrors:
    @pytest.mark.parametrize("scenario", ["404", "500", "reset-always", "short-always", "shifted"])
    def test_a_place_that_fails_is_replaced(
        self, scenario: str, cdn: Cdn, origin: Path, options: ProvisionOptions
    ) -> None:
        with Cdn(origin) as mirror:
            provisioned = pull(cdn.url(scenario), dataclasses.replace(options, mirrors=(mirror.url("ok"),)))
            assert contents(provisioned.folder) == expected(origin)
            assert mirror.log.weights()

    @pytest.mark.parametrize("scenario", ["trickle", "stall", "late", "crawl"])
    def test_a_place_that_gives_too_slowly_is_replaced(
        self, scenario: str, cdn: Cdn, origin: Path, options: ProvisionOptions
    ) -> None:
        with Cdn(origin) as mirror:
            options = dataclasses.replace(with_policy(options, read_timeout_s=0.4), mirrors=(mirror.url("ok"),))
            assert contents(pull(cdn.url(scenario), options).folder) == expected(origin)
            assert len(cdn.log.weights()) <= 2 * options.policy.connections + NUM_CHUNKS

    def test_nothing_is_asked_of_them_while_the_first_is_well(
        self, cdn: Cdn, origin: Path, options: ProvisionOptions
    ) -> None:
        with Cdn(origin) as mirror:
            pull(cdn.url("ok"), dataclasses.replace(options, mirrors=(mirror.url("ok"),)))
            assert not mirror.log.requests

    def test_the_second_stands_in_too(self, cdn: Cdn, origin: Path, options: ProvisionOptions) -> None:
        with Cdn(origin) as mirror:
            mirrors = (mirror.url("404"), mirror.url("ok"))
            assert contents(pull(cdn.url("500"), dataclasses.replace(options, mirrors=mirrors)).folder) == expected(
                origin
            )

    def test_wrong_bytes_come_from_another_place(self, cdn: Cdn, chunked: Path, options: ProvisionOptions) -> None:
        with Cdn(chunked) as first, Cdn(chunked) as mirror:
            provisioned = pull(first.url("flip"), dataclasses.replace(options, mirrors=(mirror.url("ok"),)))
            assert contents(provisioned.folder) == expected(chunked)
            assert len(mirror.log.weights()) == 2, "of each file the one chunk that was wrong"

    @pytest.mark.parametrize("is_staged", [False, True])
    def test_a_place_where_all_is_wrong(self, is_staged: bool, chunked: Path, options: ProvisionOptions) -> None:
        """Which each chunk finds out for itself where the set can be opened meanwhile."""
        options = dataclasses.replace(options, on_staged=(lambda _: None) if is_staged else None)
        with Cdn(chunked) as first, Cdn(chunked) as mirror:
            provisioned = pull(first.url("wrong"), dataclasses.replace(options, mirrors=(mirror.url("ok"),)))
            assert contents(provisioned.folder) == expected(chunked)

    def test_wrong_everywhere(self, cdn: Cdn, origin: Path, options: ProvisionOptions) -> None:
        with Cdn(origin) as mirror, pytest.raises(DigestMismatch, match="fetched 4 times"):
            pull(cdn.url("flip"), dataclasses.replace(options, mirrors=(mirror.url("flip"),)))

    def test_all_fail(self, cdn: Cdn, origin: Path, options: ProvisionOptions) -> None:
        with Cdn(origin) as mirror, pytest.raises(SourceUnavailable, match="status 500"):
            pull(cdn.url("500"), dataclasses.replace(options, mirrors=(mirror.url("500"),)))

    @pytest.mark.parametrize(("first", "second"), [("busy-once", "404"), ("404", "busy-once")])
    def test_what_would_pass_is_waited_for(
        self, first: str, second: str, cdn: Cdn, origin: Path, options: ProvisionOptions
    ) -> None:
        """A mirror that lacks a file makes nothing worse."""
        with Cdn(origin) as mirror:
            provisioned = pull(cdn.url(first), dataclasses.replace(options, mirrors=(mirror.url(second),)))
            assert contents(provisioned.folder) == expected(origin)

    def test_without_the_hub_what_is_pinned_comes_from_them(self, origin: Path, options: ProvisionOptions) -> None:
        with Cdn(origin) as gone:
            endpoint = gone.root
        with Cdn(origin) as mirror:
            pinned = dataclasses.replace(
                options, hf_endpoint=endpoint, lock=origin / FILE_NAME, mirrors=(mirror.url("ok"),)
            )
            provisioned = pull("org/name", pinned)
        assert provisioned.trust == "pinned"
        assert contents(provisioned.folder) == expected(origin)

    @pytest.mark.parametrize(
        ("scenario", "suffix"),
        [
            ("any-404", "tar"),
            ("any-404", "tar.gz"),
            ("any-flip", "tar"),
            ("any-flip", "tar.gz"),
            ("any-reset", "tar"),
            ("any-trickle", "tar.gz"),
        ],
    )
    def test_an_archive_comes_from_them_too(
        self, scenario: str, suffix: str, origin: Path, options: ProvisionOptions, tmp_path: Path
    ) -> None:
        folder = tmp_path / "served"
        folder.mkdir()
        with tarfile.open(folder / f"llava.{suffix}", "w:gz" if suffix.endswith("gz") else "w") as archive:
            for name in SIZES:
                archive.add(origin / name, name)
        with Cdn(folder) as first, Cdn(folder) as mirror:
            options = dataclasses.replace(
                with_policy(options, read_timeout_s=0.4), lock=origin / FILE_NAME, mirrors=(mirror.url("ok"),)
            )
            provisioned = pull(f"{first.url(scenario)}/llava.{suffix}", options)
            assert contents(provisioned.folder) == expected(origin)
            assert mirror.log.requests

    def test_no_secret_goes_there(self, cdn: Cdn, origin: Path, options: ProvisionOptions) -> None:
        with Cdn(origin) as mirror, FakeHub(cdn, scenario="404") as hub:
            hub_options = dataclasses.replace(
                options, hf_endpoint=hub.root, hf_token="hf_secret", mirrors=(mirror.url("ok"),)
            )
            assert contents(pull("org/name", hub_options).folder) == expected(origin)
            assert mirror.log.weights()
            assert not any("secret" in str(request.headers) for request in mirror.log.requests)


class TestChunks:
    def test_only_what_was_wrong_is_fetched_again(self, chunked: Path, options: ProvisionOptions) -> None:
        with Cdn(chunked) as cdn:
            assert contents(pull(cdn.url("flip-once"), options).folder) == expected(chunked)
            assert len(cdn.log.weights()) <= 13 + 2

    def test_their_grid_is_the_manifest_s(self, chunked: Path, options: ProvisionOptions) -> None:
        manifest = build_manifest(chunked, "weights", chunk_bytes=2 * CHUNK)
        (chunked / FILE_NAME).write_text(manifest.to_json())
        with Cdn(chunked) as cdn:
            assert contents(pull(cdn.url("ok"), options).folder) == expected(chunked)
            assert len(cdn.log.weights()) == 5 + 2

    def test_a_manifest_at_odds_with_itself(self, chunked: Path, options: ProvisionOptions) -> None:
        """Its chunks are those of the files, and its sha256 is another's: nothing may get that name."""
        value = json.loads((chunked / FILE_NAME).read_text())
        entry = next(entry for entry in value["files"] if entry["path"] == SHARD)
        entry["sha256"] = "0" * 64
        del value["setDigest"]
        (chunked / FILE_NAME).write_text(json.dumps(value))
        with Cdn(chunked) as cdn, pytest.raises(DigestMismatch, match=SHARD):
            pull(cdn.url("ok"), options)
        assert not list(options.cache.glob(f"blobs/sha256/00/{'0' * 64}"))

    @pytest.mark.parametrize("chunks", ["", "AAAA", "!", 3, None])
    def test_that_do_not_fit_are_refused(self, chunks: object, chunked: Path, options: ProvisionOptions) -> None:
        value = json.loads((chunked / FILE_NAME).read_text())
        next(entry for entry in value["files"] if entry["path"] == SHARD)["chunks"] = chunks
        (chunked / FILE_NAME).write_text(json.dumps(value))
        if chunks is None:
            read_manifest(chunked / FILE_NAME)
            return
        with pytest.raises(InvalidManifest, match="chunks"):
            read_manifest(chunked / FILE_NAME)

    @pytest.mark.parametrize("size", [0, 1, "16", True, 1 << 40])
    def test_a_grid_that_can_not_be(self, size: object, chunked: Path) -> None:
        value = json.loads((chunked / FILE_NAME).read_text()) | {"chunkSize": size}
        (chunked / FILE_NAME).write_text(json.dumps(value))
        with pytest.raises(InvalidManifest, match="chunkSize"):
            read_manifest(chunked / FILE_NAME)


class TestHubCache:
    """What `huggingface_hub` keeps: blobs named by the sha256 of large files and the git id of small ones."""

    @pytest.fixture
    def hub_cache(self, origin: Path, tmp_path: Path) -> Path:
        blobs = tmp_path / "hub" / "models--org--name" / "blobs"
        blobs.mkdir(parents=True)
        for name in SIZES:
            data = (origin / name).read_bytes()
            is_large = name.endswith(".safetensors")
            git = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
            (blobs / (hashlib.sha256(data).hexdigest() if is_large else git)).write_bytes(data)
        return tmp_path / "hub"

    def test_is_taken_over_and_nothing_is_fetched(
        self, cdn: Cdn, hub_cache: Path, origin: Path, options: ProvisionOptions
    ) -> None:
        with FakeHub(cdn) as hub:
            adopting = dataclasses.replace(options, hf_endpoint=hub.root, hf_cache=hub_cache)
            provisioned = pull("org/name", adopting)
        assert provisioned.from_cache
        assert provisioned.trust == "hub"
        assert contents(provisioned.folder) == expected(origin)
        assert not cdn.log.requests
        assert (provisioned.folder / SHARD).stat().st_nlink == 3, "its blob there, ours, and the tree's: no second copy"

    @pytest.mark.parametrize("revision", ["", f"@{COMMIT}"])
    def test_what_is_pinned_is_taken_over_without_the_hub(
        self, revision: str, hub_cache: Path, origin: Path, options: ProvisionOptions
    ) -> None:
        with Cdn(origin) as gone:
            endpoint = gone.root
        repository = hub_cache / "models--org--name"
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(COMMIT)
        snapshot = repository / "snapshots" / COMMIT
        snapshot.mkdir(parents=True)
        for name in SIZES:
            data = (origin / name).read_bytes()
            blob = next(path for path in (repository / "blobs").iterdir() if path.read_bytes() == data)
            (snapshot / name).symlink_to(f"../../blobs/{blob.name}")
        adopting = dataclasses.replace(options, hf_endpoint=endpoint, hf_cache=hub_cache, lock=origin / FILE_NAME)
        provisioned = pull(f"org/name{revision}", adopting)
        assert (provisioned.from_cache, provisioned.trust) == (True, "pinned")
        assert contents(provisioned.folder) == expected(origin)

    def test_a_damaged_blob_is_fetched(
        self, cdn: Cdn, hub_cache: Path, origin: Path, options: ProvisionOptions
    ) -> None:
        """Cut ones and flipped ones have been seen in the wild: the name proves nothing."""
        digest = hashlib.sha256((origin / SHARD).read_bytes()).hexdigest()
        blob = hub_cache / "models--org--name" / "blobs" / digest
        blob.write_bytes(bytes(SIZES[SHARD]))
        with FakeHub(cdn) as hub:
            provisioned = pull("org/name", dataclasses.replace(options, hf_endpoint=hub.root, hf_cache=hub_cache))
        assert contents(provisioned.folder) == expected(origin)
        assert {request.name for request in cdn.log.weights()} == {SHARD}
        assert not list((options.cache / "parts").iterdir())
