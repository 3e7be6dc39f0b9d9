"""A set that can be opened while it is fetched: what may be read when, and that wrong is never right."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lavatube.checkpoint.parts import read_parts
from lavatube.errors import CacheUnusable, LavatubeError, SourceUnavailable
from lavatube.weights.arrival import Arrival, Spoiled, find_arrivals
from lavatube.weights.cache import Cache
from lavatube.weights.chunk_map import MISSING, MapHead
from lavatube.weights.manifest import FILE_NAME, build_manifest
from lavatube.weights.options import Provisioned, ProvisionOptions
from lavatube.weights.parts import Part
from lavatube.weights.provision import provision
from lavatube.weights.tensors import open_tensors
from tests.adapted import leave_adapter
from tests.cdn import Cdn
from tests.checkpoints import write_checkpoint
from tests.hub import FakeHub
from tests.originals import write_original
from tests.weights.conftest import contents

CHUNK = 64 * 1024


@pytest.fixture(scope="module", params=["safetensors", "files of torch"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("checkpoint")
    if request.param == "safetensors":
        folder = write_checkpoint(root / "weights", num_shards=2)
    else:
        folder = write_original(root / "weights", write_checkpoint(root / "hf"), torch_files=True, num_shards=2)
    (folder / FILE_NAME).write_text(build_manifest(folder, "weights", chunk_bytes=CHUNK).to_json())
    return folder


@pytest.fixture
def staged_options(options: ProvisionOptions) -> ProvisionOptions:
    return replace(options, policy=replace(options.policy, chunk_bytes=CHUNK, race_after_s=0.05, read_timeout_s=60.0))


class Pull(threading.Thread):
    """Provisioning in the background; `folder` is what was shown early."""

    def __init__(self, uri: str, options: ProvisionOptions) -> None:
        super().__init__(daemon=True)
        self.is_staged = threading.Event()
        self.folder = Path()
        self.set_digest = ""
        self.total_bytes = 0
        self.provisioned: Provisioned | None = None
        self.error: LavatubeError | None = None
        self._uri = uri
        self._options = replace(options, on_staged=self._on_staged)

    def _on_staged(self, staged: Provisioned) -> None:
        self.folder = staged.folder
        self.set_digest = staged.set_digest
        self.total_bytes = staged.total_bytes
        self.is_staged.set()

    def run(self) -> None:
        try:
            self.provisioned = provision(self._uri, self._options, lambda _: None)
        except LavatubeError as error:
            self.error = error
        self.is_staged.set()


def begin(uri: str, options: ProvisionOptions) -> Pull:
    """One that has got so far that something is shown, or has ended."""
    pull = Pull(uri, options)
    pull.start()
    assert pull.is_staged.wait(60)
    return pull


@pytest.fixture
def cdn(checkpoint: Path) -> Iterator[Cdn]:
    with Cdn(checkpoint) as server:
        yield server
        server.released.set()


def test_a_set_can_be_opened_before_its_weights_are_here(
    cdn: Cdn, checkpoint: Path, staged_options: ProvisionOptions
) -> None:
    pull = begin(cdn.url("held"), staged_options)
    arrivals = find_arrivals(pull.folder)
    assert pull.provisioned is None
    assert arrivals, "the weights are on their way"
    assert (pull.folder / "config.json").read_bytes() == (checkpoint / "config.json").read_bytes()
    for arrival in arrivals.values():
        arrival.wait(0, CHUNK)
    cdn.released.set()
    for arrival in arrivals.values():
        arrival.wait_verified()
    pull.join(60)
    assert pull.provisioned is not None
    assert pull.set_digest == pull.provisioned.set_digest
    early = {name: data for name, data in contents(pull.folder).items() if not name.endswith(".map")}
    assert early == contents(pull.provisioned.folder)


def test_bytes_that_are_damaged_once_are_waited_for(
    cdn: Cdn, checkpoint: Path, staged_options: ProvisionOptions
) -> None:
    """Chunks with digests: what was wrong never counted as here."""
    pull = begin(cdn.url("flip-once"), staged_options)
    pull.join(60)
    assert pull.error is None
    for name, arrival in find_arrivals(pull.folder).items():
        arrival.wait_verified()
        assert (pull.folder / name).read_bytes() == (checkpoint / name).read_bytes()


def test_what_was_staged_goes_when_the_fetch_fails(cdn: Cdn, staged_options: ProvisionOptions) -> None:
    options = replace(staged_options, policy=replace(staged_options.policy, race_after_s=60.0))
    pull = Pull(cdn.url("500"), options)
    pull.run()
    assert isinstance(pull.error, SourceUnavailable)
    assert not list(Cache(options.cache).staged.glob("*"))


def test_a_cache_that_is_deleted_while_somebody_trails(
    cdn: Cdn, checkpoint: Path, staged_options: ProvisionOptions
) -> None:
    pull = begin(cdn.url("held"), staged_options)
    gone = staged_options.cache.rename(staged_options.cache.with_name("gone"))  # at once, whoever writes to it
    shutil.rmtree(gone, ignore_errors=True)
    cdn.released.set()
    pull.join(60)
    assert isinstance(pull.error, CacheUnusable)
    folder = provision(cdn.url("ok"), staged_options, lambda _: None).folder
    assert contents(folder) == {name: (checkpoint / name).read_bytes() for name in contents(folder)} != {}


@pytest.mark.parametrize("data", [b"", b"short", b"\xff" * 100, bytes(2 * CHUNK)])
def test_weights_whose_header_is_none_are_fetched_all_the_same(
    data: bytes, staged_options: ProvisionOptions, tmp_path: Path
) -> None:
    """What is wrong with them is for the loader to say."""
    origin = tmp_path / "origin"
    origin.mkdir()
    (origin / "config.json").write_text("{}")
    (origin / "model.safetensors").write_bytes(data)
    (origin / FILE_NAME).write_text(build_manifest(origin, "weights", chunk_bytes=CHUNK).to_json())
    with Cdn(origin) as cdn:
        pull = Pull(cdn.url("ok"), staged_options)
        pull.run()
    assert pull.folder == Path()
    assert pull.provisioned is not None
    assert (pull.provisioned.folder / "model.safetensors").read_bytes() == data
    assert not list(Cache(staged_options.cache).staged.glob("*"))


def test_nothing_is_staged_for_a_set_that_is_here(cdn: Cdn, staged_options: ProvisionOptions) -> None:
    provision(cdn.url("ok"), staged_options, lambda _: None)
    pull = Pull(cdn.url("ok"), staged_options)
    pull.run()
    assert pull.folder == Path()


def test_a_connection_that_stalls_is_raced(cdn: Cdn, checkpoint: Path, staged_options: ProvisionOptions) -> None:
    """Its own time-out is a minute away: if nobody else tried, this would not end before."""
    provisioned = provision(cdn.url("stall-once"), staged_options, lambda _: None)
    assert {name: (checkpoint / name).read_bytes() for name in contents(provisioned.folder)} == contents(
        provisioned.folder
    )


def test_tensors_of_a_file_of_torch_are_read_as_they_land(tmp_path: Path) -> None:
    """What lies where is known from its end; where exactly, when the bytes are here."""
    saved = {f"layers.{number}": torch.full((CHUNK // 4,), float(number)) for number in range(4)}
    torch.save(saved, tmp_path / "pytorch_model.bin")
    data = (tmp_path / "pytorch_model.bin").read_bytes()
    part = Part(tmp_path, "x", len(data), CHUNK, has_digests=True)
    (tmp_path / "staged").mkdir()
    part.link_to(tmp_path / "staged" / "pytorch_model.bin")

    def bring(*chunks: int) -> None:
        for chunk in chunks:
            start, stop = part.span(chunk)
            part.write(memoryview(data[start:stop]), start)
            part.vouch(chunk)

    bring(0, part.num_chunks - 1)
    tensors = open_tensors(tmp_path / "staged")
    assert tensors.names == tuple(saved)
    bring(1, 2)
    torch.testing.assert_close(tensors.tensor("layers.0"), saved["layers.0"])
    reading = ThreadPoolExecutor().submit(tensors.tensor, "layers.3")
    assert not reading.done()
    bring(3)
    torch.testing.assert_close(reading.result(60), saved["layers.3"])
    part.close()


class TestParts:
    """A checkpoint whose tower, or whose base, lies in another repository of a hub."""

    @pytest.fixture
    def hf(self, tmp_path: Path) -> Path:
        return write_checkpoint(tmp_path / "hf")

    def pull(self, main: Path, others: dict[str, Cdn], held: Cdn, options: ProvisionOptions) -> Pull:
        """Opened while its `held` weights, and nothing else, are still to come; then let through to the end."""
        with Cdn(main) as own, FakeHub(held if held.folder == main else own, scenario="held") as hub:
            hub.others |= {name: cdn.folder for name, cdn in others.items()}
            hub.storages |= others
            pull = Pull("org/name", replace(options, hf_endpoint=hub.root))
            for cdn in {own, *others.values()} - {held}:
                cdn.released.set()
            pull.start()
            assert pull.is_staged.wait(60)
            assert pull.provisioned is None
            assert not read_parts(pull.folder).missing
            held.released.set()
            pull.join(60)
        assert pull.error is None
        return pull

    def test_a_tower_comes_before_what_needs_it(
        self, hf: Path, tmp_path: Path, staged_options: ProvisionOptions
    ) -> None:
        main = write_original(tmp_path / "main", hf, torch_files=True, num_shards=2)
        (main / "vision_tower").rename(tmp_path / "tower")
        with Cdn(main) as cdn, Cdn(tmp_path / "tower") as tower:
            pull = self.pull(main, {"somebody/some-tower": tower}, cdn, staged_options)
        check_shown(pull, {"pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"})

    def test_an_adapter_is_here_when_its_base_comes(
        self, hf: Path, tmp_path: Path, staged_options: ProvisionOptions
    ) -> None:
        main = write_original(tmp_path / "main", hf, torch_files=True)
        leave_adapter(main)
        (main / "vision_tower").rename(tmp_path / "tower")
        (main / "base").rename(tmp_path / "base")
        for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
            (main / name).rename(tmp_path / "base" / name)
        with Cdn(tmp_path / "base") as base, Cdn(tmp_path / "tower") as tower:
            pull = self.pull(main, {"somebody/some-tower": tower, "some/base": base}, base, staged_options)
        assert (pull.folder / "tokenizer.json").is_file()
        check_shown(pull, {"base/model.safetensors"})


def check_shown(pull: Pull, late: set[str]) -> None:
    """What was shown early was the whole, of which `late` was to come, and became what was provided in the end."""
    assert pull.provisioned is not None
    assert (pull.set_digest, pull.total_bytes) == (pull.provisioned.set_digest, pull.provisioned.total_bytes)
    early = {name: data for name, data in contents(pull.folder).items() if not name.endswith(".map")}
    assert early == contents(pull.provisioned.folder)
    arrivals = find_arrivals(pull.folder)
    assert arrivals.keys() == late
    for arrival in arrivals.values():
        arrival.wait_verified()


class TestArrival:
    def test_landed_bytes_without_digests_count_and_a_reset_spoils_them(self, tmp_path: Path) -> None:
        part = Part(tmp_path, "x", 25, 10)
        part.link_to(tmp_path / "seen")
        arrival = Arrival(tmp_path / "seen")
        part.write(memoryview(b"0123456789"), 0)
        part.mark(0)
        arrival.wait(0, 10)
        assert (tmp_path / "seen").read_bytes()[:10] == b"0123456789"
        part.reset([0])
        part.mark(0)
        with pytest.raises(Spoiled):
            arrival.wait(0, 10)
        part.close()

    def test_digests_make_a_reset_harmless(self, tmp_path: Path) -> None:
        part = Part(tmp_path, "x", 25, 10, has_digests=True)
        part.link_to(tmp_path / "seen")
        arrival = Arrival(tmp_path / "seen")
        part.vouch(0)
        part.reset([1])
        arrival.wait(0, 10)
        for chunk in (1, 2):
            part.vouch(chunk)
        arrival.wait_verified()
        part.close()

    def test_a_file_that_became_a_blob_is_verified(self, tmp_path: Path) -> None:
        part = Part(tmp_path, "x", 3, 10)
        part.link_to(tmp_path / "seen")
        arrival = Arrival(tmp_path / "seen")
        part.write(memoryview(b"abc"), 0)
        part.mark(0)
        part.commit(tmp_path / "ab" / "blob")
        part.close()
        arrival.wait_verified()
        assert (tmp_path / "seen").read_bytes() == b"abc"

    def test_a_file_without_a_map_is_whole(self, tmp_path: Path) -> None:
        """What else is called so is a file of the checkpoint's, and nobody waits for what it says."""
        (tmp_path / "model.safetensors").write_bytes(b"x")
        (tmp_path / "model.safetensors.map").write_bytes(MapHead(1, 10).pack() + MISSING)
        (tmp_path / "vocabulary.map").write_bytes(b"")
        assert find_arrivals(tmp_path) == {}


def test_a_part_that_becomes_a_blob_meanwhile_is_shown_as_that(tmp_path: Path) -> None:
    part = Part(tmp_path, "x", 3, 3)
    part.write(memoryview(b"abc"), 0)
    part.mark(0)
    part.link_to(tmp_path / "early")
    part.commit(tmp_path / "blobs" / "x")
    part.link_to(tmp_path / "late")
    part.close()
    assert (tmp_path / "early").read_bytes() == (tmp_path / "late").read_bytes() == b"abc"
    assert list(find_arrivals(tmp_path)) == ["early"]
    assert (tmp_path / "blobs" / "x").is_file()
