"""The cache over another, without locks, hashed again on demand, and read by others' programs."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lavatube.errors import CacheUnusable
from lavatube.weights import filesystems
from lavatube.weights.cache import Cache, link
from lavatube.weights.filesystems import file_system, has_locks
from lavatube.weights.manifest import FILE_NAME, build_manifest
from lavatube.weights.options import ProvisionOptions
from lavatube.weights.parts import Part
from lavatube.weights.progress import Progress
from lavatube.weights.provision import provision
from tests.cdn import Cdn
from tests.weights.conftest import contents, expected, pull
from tests.weights.test_provision import flip_bit

SHARD = "model-00002-of-00002.safetensors"


class TestBase:
    """A read-only cache with another on top, as of an image with a volume."""

    @pytest.fixture
    def over(self, options: ProvisionOptions, origin: Path, tmp_path: Path) -> ProvisionOptions:
        pull(origin.as_uri(), options)
        base = tmp_path / "base"
        shutil.copytree(options.cache, base, symlinks=True)
        shutil.rmtree(options.cache)
        ready = Cache(base).ready_sets()[0]  # its files are others now: copied
        Cache(base).publish(ready.manifest, ready.source)
        return dataclasses.replace(options, base=base)

    def test_what_is_there_is_used_from_there(self, over: ProvisionOptions, origin: Path) -> None:
        provisioned = pull(origin.as_uri(), over)
        assert provisioned.from_cache
        assert over.base is not None
        assert provisioned.folder.is_relative_to(over.base)
        assert not over.cache.exists()

    def test_what_is_missing_goes_on_top(self, over: ProvisionOptions, origin: Path, tmp_path: Path) -> None:
        other = Path(shutil.copytree(origin, tmp_path / "other"))
        (other / "config.json").write_text('{"other": "set"}')
        (other / FILE_NAME).write_text(build_manifest(other, "other").to_json())
        with Cdn(other) as cdn:
            provisioned = pull(cdn.url("ok"), over)
            assert not cdn.log.weights(), "the shards are in the base"
        assert over.base is not None
        assert contents(provisioned.folder) == expected(other)
        assert not list(over.base.glob("parts/*"))
        assert len(list(over.cache.glob("blobs/sha256/*/*"))) == 1
        assert pull(other.as_uri(), over).from_cache

    def test_damage_in_the_base_is_mended_on_top(self, over: ProvisionOptions, cdn: Cdn, origin: Path) -> None:
        assert over.base is not None
        flip_bit(next(over.base.glob(f"trees/*/{SHARD}")))
        provisioned = pull(cdn.url("ok"), over)
        assert contents(provisioned.folder) == expected(origin)
        assert provisioned.folder.is_relative_to(over.cache)
        assert {request.name for request in cdn.log.weights()} == {SHARD}


class TestThorough:
    def test_hashes_what_looks_well(self, options: ProvisionOptions, cdn: Cdn, origin: Path) -> None:
        """A disk that gives other bytes changes no time and no size."""
        ready = pull(cdn.url("ok"), options).folder / SHARD
        status = ready.stat()
        flip_bit(ready)
        ready.chmod(status.st_mode)
        os.utime(ready, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert pull(cdn.url("ok"), options).from_cache, "the quick look can't see it"
        provisioned = pull(cdn.url("ok"), dataclasses.replace(options, is_thorough=True))
        assert not provisioned.from_cache
        assert contents(provisioned.folder) == expected(origin)

    def test_finds_nothing_in_a_sound_set(self, options: ProvisionOptions, origin: Path) -> None:
        pull(origin.as_uri(), options)
        reports: list[Progress] = []
        assert provision(origin.as_uri(), dataclasses.replace(options, is_thorough=True), reports.append).from_cache
        assert "verifying" in {report.phase for report in reports}

    def test_a_folder_with_its_manifest(self, options: ProvisionOptions, origin: Path, tmp_path: Path) -> None:
        folder = Path(shutil.copytree(origin, tmp_path / "folder"))
        options = dataclasses.replace(options, is_thorough=True)
        pull(str(folder), options)
        flip_bit(folder / SHARD)
        with pytest.raises(Exception, match=SHARD):
            pull(str(folder), options)


class TestConstantTime:
    def test_a_warm_start_reads_no_weights(self, options: ProvisionOptions, origin: Path) -> None:
        """Not even one byte: the files are taken away from whoever would read them."""
        pull(origin.as_uri(), options)
        opened: list[str] = []

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            if event == "open" and is_watching:
                opened.append(str(arguments[0]))

        is_watching = True
        sys.addaudithook(hook)
        assert pull(origin.as_uri(), options).from_cache
        is_watching = False
        assert opened
        assert not [path for path in opened if path.endswith(".safetensors") or "blobs" in path]


class TestWithoutLocks:
    """Some file systems refuse locks, and some say yes to everybody."""

    def test_that_are_refused(self, options: ProvisionOptions, origin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(descriptor: object, operation: int) -> None:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        monkeypatch.setattr(fcntl, "flock", refuse)
        assert contents(pull(origin.as_uri(), options).folder) == expected(origin)

    def test_that_keep_nobody_out(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fcntl, "flock", lambda descriptor, operation: None)
        assert not has_locks(tmp_path)
        first, second = Part(tmp_path, "x", 25, 10), Part(tmp_path, "x", 25, 10)
        assert first.path != second.path, "nobody writes into what another hashes"
        first.close()
        second.close()

    def test_of_a_network_are_not_trusted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert has_locks(tmp_path)
        monkeypatch.setattr(filesystems, "file_system", lambda folder: "nfs4")
        assert not has_locks(tmp_path)

    @pytest.mark.parametrize(
        ("folder", "kind"), [("/mnt/share/models", "nfs4"), ("/mnt/sh", "ext4"), ("/mnt/a b/c", "fuse.s3fs")]
    )
    def test_the_kind_of_file_system(self, folder: str, kind: str) -> None:
        mounts = "/dev/a / ext4 rw 0 0\nhost:/x /mnt/share nfs4 rw 0 0\ns3 /mnt/a\\040b fuse.s3fs rw 0 0\n"
        assert file_system(Path(folder), mounts) == kind


class TestBlobsThatGo:
    """Somebody removes them between the moment at which they are verified and that at which the set is marked."""

    def test_before_the_set_is_ready(self, options: ProvisionOptions, cdn: Cdn, origin: Path) -> None:
        def remove(progress: Progress) -> None:
            blobs = [path for path in options.cache.glob("blobs/sha256/*/*") if path.is_file()]
            if len(blobs) == len(expected(origin)):
                shutil.rmtree(options.cache / "blobs" / "sha256")
                (options.cache / "blobs" / "sha256").mkdir()

        with pytest.raises(CacheUnusable, match="has gone from the cache"):
            provision(cdn.url("ok"), options, remove)
        assert contents(pull(cdn.url("ok"), options).folder) == expected(origin)

    def test_a_marker_of_files_that_are_not_there_is_not_believed(
        self, options: ProvisionOptions, cdn: Cdn, origin: Path
    ) -> None:
        """As an earlier version could write it."""
        ready = pull(cdn.url("ok"), options)
        marker = Cache(options.cache).marker(ready.set_digest)
        note = json.loads(marker.read_text())
        marker.write_text(json.dumps(note | {"stamps": dict.fromkeys(note["stamps"])}))
        shutil.rmtree(options.cache / "blobs")
        shutil.rmtree(ready.folder)
        again = pull(cdn.url("ok"), options)
        assert not again.from_cache
        assert contents(again.folder) == expected(origin)

    def test_a_link_to_nothing_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="has gone"):
            link(tmp_path / "blob", tmp_path / "target")


@pytest.mark.slow
def test_transformers_opens_a_tree(options: ProvisionOptions) -> None:
    code = (
        "import sys; from transformers import AutoProcessor, LlavaForConditionalGeneration as Model\n"
        "_, loading = Model.from_pretrained(sys.argv[1], output_loading_info=True)\n"
        "assert not loading['missing_keys'], loading\n"
        "assert AutoProcessor.from_pretrained(sys.argv[1]).tokenizer('a')['input_ids']\n"
    )
    subprocess.run([sys.executable, "-c", code, str(pull("tiny", options).folder)], check=True, capture_output=True)


def test_a_cache_that_can_only_be_read(options: ProvisionOptions, origin: Path, tmp_path: Path) -> None:
    """The tests may run as root, whom no mode keeps out; a file in the place of a folder does."""
    options.cache.mkdir()
    (options.cache / "parts").write_text("")
    with pytest.raises(CacheUnusable) as caught:
        pull(origin.as_uri(), options)
    assert "--cache" in caught.value.remedy
