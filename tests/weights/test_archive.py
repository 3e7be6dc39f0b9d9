"""Archives: what comes out of an honest one, and that a hostile one leaves nothing behind."""

from __future__ import annotations

import dataclasses
import io
import tarfile
from pathlib import Path

import pytest

from lavatube.errors import (
    DigestMismatch,
    InvalidManifest,
    LavatubeError,
    SourceUnavailable,
    UnsupportedCheckpoint,
    UntrustedSource,
)
from lavatube.weights.manifest import FILE_NAME, build_manifest, read_manifest
from lavatube.weights.options import ProvisionOptions
from lavatube.weights.provision import Provisioned, provision
from tests.cdn import Cdn
from tests.checkpoints import write_checkpoint
from tests.weights.conftest import CHUNK, SIZES, contents, expected, with_policy

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
SHARD = "model-00002-of-00002.safetensors"


def pull(uri: str, options: ProvisionOptions, *, is_allowed: bool = True) -> Provisioned:
    return provision(uri, dataclasses.replace(options, allow_unverified=is_allowed), lambda _: None)


def write_tar(path: Path, origin: Path, *, top: str = "", kind: int = tarfile.PAX_FORMAT, mode: str = "w") -> Path:
    with tarfile.open(path, mode, format=kind) as archive:  # type: ignore[call-overload]
        for name in [*SIZES, "README.md"]:
            archive.add(origin / name, f"{top}{name}")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "served").mkdir()
    return tmp_path / "served"


@pytest.mark.parametrize("top", ["", "./", "llava/", "long" * 30 + "/"])
@pytest.mark.parametrize("kind", FORMATS)
def test_what_comes_out(top: str, kind: str, folder: Path, origin: Path, options: ProvisionOptions) -> None:
    write_tar(folder / "llava.tar", origin, top=top, kind=FORMATS[kind])
    with Cdn(folder) as cdn:
        provisioned = pull(f"{cdn.url('bare')}/llava.tar", options)
    assert contents(provisioned.folder) == expected(origin)
    assert provisioned.trust == "unverified"


def test_packed(folder: Path, origin: Path, options: ProvisionOptions) -> None:
    write_tar(folder / "llava.tar.gz", origin, mode="w:gz")
    with Cdn(folder) as cdn:
        assert contents(pull(f"{cdn.url('bare')}/llava.tar.gz", options).folder) == expected(origin)


def test_of_this_machine(folder: Path, origin: Path, options: ProvisionOptions) -> None:
    write_tar(folder / "llava.tar", origin)
    uri = (folder / "llava.tar").as_uri()
    provisioned = pull(uri, options, is_allowed=False)
    assert contents(provisioned.folder) == expected(origin)
    assert provisioned.trust == "local"
    assert pull(uri, options, is_allowed=False).from_cache


def test_is_refused_where_nobody_vouches(folder: Path, origin: Path, options: ProvisionOptions) -> None:
    write_tar(folder / "llava.tar", origin)
    with Cdn(folder) as cdn, pytest.raises(UntrustedSource):
        pull(f"{cdn.url('bare')}/llava.tar", options, is_allowed=False)


def test_pinned(folder: Path, origin: Path, options: ProvisionOptions) -> None:
    write_tar(folder / "llava.tar", origin, top="llava/")
    pinned = dataclasses.replace(options, lock=origin / FILE_NAME)
    with Cdn(folder) as cdn:
        provisioned = pull(f"{cdn.url('bare')}/llava.tar", pinned, is_allowed=False)
        assert provisioned.trust == "pinned"
        assert contents(provisioned.folder) == expected(origin)
        seen = len(cdn.log.requests)
        assert pull(f"{cdn.url('bare')}/llava.tar", pinned).from_cache
        assert len(cdn.log.requests) == seen


def test_headers_that_come_in_a_trickle(folder: Path, origin: Path, options: ProvisionOptions) -> None:
    write_tar(folder / "llava.tar", origin)
    pinned = dataclasses.replace(with_policy(options, read_timeout_s=0.3), lock=origin / FILE_NAME)
    with Cdn(folder) as cdn, pytest.raises(SourceUnavailable, match="slower than"):
        pull(f"{cdn.url('any-trickle')}/llava.tar", pinned)


@pytest.mark.parametrize("scenario", ["any-trickle", "any-relapse"])
def test_a_packed_one_in_a_trickle(scenario: str, folder: Path, origin: Path, options: ProvisionOptions) -> None:
    """Also where what is here already comes once more, since the server ignores ranges."""
    write_tar(folder / "llava.tar.gz", origin, mode="w:gz")
    with Cdn(folder) as cdn, pytest.raises(SourceUnavailable, match="slower than"):
        pull(f"{cdn.url(scenario)}/llava.tar.gz", with_policy(options, read_timeout_s=0.3))


def test_members_that_are_here_are_jumped_over(folder: Path, origin: Path, options: ProvisionOptions) -> None:
    pull(f"{origin.as_uri()}/model-00001-of-00002.safetensors", options)
    write_tar(folder / "llava.tar", origin)
    pinned = dataclasses.replace(options, lock=origin / FILE_NAME)
    with Cdn(folder) as cdn:
        assert contents(pull(f"{cdn.url('ok')}/llava.tar", pinned).folder) == expected(origin)
        assert len([request for request in cdn.log.requests if request.name == "llava.tar"]) > 2


def test_other_content_than_pinned(folder: Path, origin: Path, options: ProvisionOptions, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in [*SIZES, "README.md"]:
        (other / name).write_bytes((origin / name).read_bytes())
    (other / SHARD).write_bytes(bytes(SIZES[SHARD]))
    write_tar(folder / "llava.tar", other)
    with Cdn(folder) as cdn, pytest.raises(DigestMismatch, match=SHARD):
        pull(f"{cdn.url('bare')}/llava.tar", dataclasses.replace(options, lock=origin / FILE_NAME))
    (digest,) = (file.sha256 for file in read_manifest(origin / FILE_NAME).files if file.path == SHARD)
    assert not list((options.cache / "parts").glob(f"{digest}*"))
    assert not list(options.cache.glob("trees/*"))


def test_a_packed_one_that_is_damaged_comes_again(folder: Path, origin: Path, options: ProvisionOptions) -> None:
    """Once, and not for ever."""
    size = write_tar(folder / "llava.tar.gz", origin, mode="w:gz").stat().st_size
    pinned = dataclasses.replace(options, lock=origin / FILE_NAME)
    with Cdn(folder) as cdn:
        with pytest.raises((DigestMismatch, UnsupportedCheckpoint)):
            pull(f"{cdn.url('any-flip')}/llava.tar.gz", pinned)
        assert sum(request.span == (0, size) for request in cdn.log.requests) == 2
        assert contents(pull(f"{cdn.url('any-flip-once')}/llava.tar.gz", pinned).folder) == expected(origin)


def test_a_file_that_is_missing(folder: Path, origin: Path, options: ProvisionOptions) -> None:
    with tarfile.open(folder / "llava.tar", "w") as archive:
        archive.add(origin / SHARD, SHARD)
    with Cdn(folder) as cdn, pytest.raises(DigestMismatch, match=r"config\.json"):
        pull(f"{cdn.url('bare')}/llava.tar", dataclasses.replace(options, lock=origin / FILE_NAME))


def test_a_plain_one_is_taken_up_where_it_was(folder: Path, origin: Path, options: ProvisionOptions) -> None:
    write_tar(folder / "llava.tar", origin, top="llava/")
    pinned = with_policy(dataclasses.replace(options, lock=origin / FILE_NAME), connections=1)
    with Cdn(folder) as cdn:
        with pytest.raises(SourceUnavailable, match="status 404"):
            pull(f"{cdn.url('any-spent')}/llava.tar", pinned)
        cdn.log.sent_bytes = 0
        assert contents(pull(f"{cdn.url('ok')}/llava.tar", pinned).folder) == expected(origin)
        assert cdn.log.sent_bytes < 0.7 * sum(SIZES.values())


def test_a_plain_one_can_be_opened_while_it_is_fetched(folder: Path, tmp_path: Path, options: ProvisionOptions) -> None:
    checkpoint = write_checkpoint(tmp_path / "llava", num_shards=2)
    with tarfile.open(folder / "llava.tar", "w") as archive:
        archive.add(checkpoint, "llava")
    (folder / FILE_NAME).write_text(build_manifest(checkpoint, chunk_bytes=CHUNK).to_json())
    shown: list[Provisioned] = []
    with Cdn(folder) as cdn:
        uri = f"{cdn.url('ok')}/llava.tar"
        provisioned = provision(uri, dataclasses.replace(options, on_staged=shown.append), lambda _: None)
    (early,) = shown
    assert early.set_digest == provisioned.set_digest
    seen = {name: data for name, data in contents(early.folder).items() if not name.endswith(".map")}
    assert seen == contents(provisioned.folder)


def test_where_ranges_are_ignored_it_is_taken_apart_as_it_comes_by(
    folder: Path, origin: Path, options: ProvisionOptions
) -> None:
    write_tar(folder / "llava.tar", origin)
    with Cdn(folder) as cdn:
        pinned = dataclasses.replace(options, lock=origin / FILE_NAME)
        assert contents(pull(f"{cdn.url('any-whole')}/llava.tar", pinned).folder) == expected(origin)
        assert len([request for request in cdn.log.requests if request.name == "llava.tar"]) < 20


def hostile(path: Path, *members: tarfile.TarInfo, data: bytes = b"") -> None:
    with tarfile.open(path, "w") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(data))


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, size
    return info


@pytest.mark.parametrize(
    ("made", "error_type", "said"),
    [
        (member("../model.safetensors"), InvalidManifest, "safe relative path"),
        (member("a/../../model.safetensors"), InvalidManifest, "safe relative path"),
        (member("/etc/model.safetensors"), InvalidManifest, "safe relative path"),
        (member("..\\model.safetensors"), InvalidManifest, "safe relative path"),
        (member("model.safetensors", tarfile.SYMTYPE, "/etc/passwd"), UnsupportedCheckpoint, "a symbolic link"),
        (member("model.safetensors", tarfile.LNKTYPE, "../x"), UnsupportedCheckpoint, "a hard link"),
        (member("model.safetensors", tarfile.CHRTYPE), UnsupportedCheckpoint, "a character device"),
        (member("model.safetensors", tarfile.BLKTYPE), UnsupportedCheckpoint, "a block device"),
        (member("model.safetensors", tarfile.FIFOTYPE), UnsupportedCheckpoint, "a named pipe"),
        (member("model.safetensors", b"?"), UnsupportedCheckpoint, "something unknown"),
        (member("README.md"), UnsupportedCheckpoint, "no weights"),
    ],
)
def test_hostile_members(
    made: tarfile.TarInfo, error_type: type[LavatubeError], said: str, folder: Path, options: ProvisionOptions
) -> None:
    hostile(folder / "llava.tar", made)
    with pytest.raises(error_type) as caught:
        pull((folder / "llava.tar").as_uri(), options)
    assert said in caught.value.message
    assert not list((options.cache / "parts").iterdir())
    assert not list(options.cache.glob("trees/*"))


def test_a_name_twice(folder: Path, options: ProvisionOptions) -> None:
    hostile(folder / "llava.tar", member("model.safetensors"), member("model.safetensors"))
    with pytest.raises(UnsupportedCheckpoint, match="twice"):
        pull((folder / "llava.tar").as_uri(), options)


def test_a_pax_name_that_wants_out(folder: Path, options: ProvisionOptions) -> None:
    made = member("model.safetensors")
    made.pax_headers = {"path": "../../model.safetensors"}
    with tarfile.open(folder / "llava.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(made)
    with pytest.raises(InvalidManifest, match="safe relative path"):
        pull((folder / "llava.tar").as_uri(), options)


def test_a_huge_extended_header(folder: Path, options: ProvisionOptions) -> None:
    made = member("model.safetensors")
    made.pax_headers = {"comment": "x" * 1_000_000}
    with tarfile.open(folder / "llava.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(made)
    with pytest.raises(UnsupportedCheckpoint, match="over the limit"):
        pull((folder / "llava.tar").as_uri(), options)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_cut(share: float, folder: Path, origin: Path, options: ProvisionOptions) -> None:
    data = write_tar(folder / "whole.tar", origin).read_bytes()
    (folder / "llava.tar").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UnsupportedCheckpoint):
        pull((folder / "llava.tar").as_uri(), options)
    assert not list((options.cache / "parts").iterdir())


def test_garbage(folder: Path, options: ProvisionOptions) -> None:
    (folder / "llava.tar").write_bytes(b"<html>Sign in</html>" * 100)
    with pytest.raises(UnsupportedCheckpoint, match="no tar archive"):
        pull((folder / "llava.tar").as_uri(), options)
    (folder / "llava.tar.gz").write_bytes(b"<html>Sign in</html>" * 100)
    with pytest.raises(UnsupportedCheckpoint, match="can't be unpacked"):
        pull((folder / "llava.tar.gz").as_uri(), options)


def test_a_bomb(folder: Path, options: ProvisionOptions) -> None:
    size = 64 * 1024 * 1024
    with tarfile.open(folder / "llava.tar.gz", "w:gz") as archive:
        archive.addfile(member("model.safetensors", size=size), io.BytesIO(bytes(size)))
    assert (folder / "llava.tar.gz").stat().st_size * 500 < size
    with pytest.raises(UnsupportedCheckpoint, match="100 times its size"):
        pull((folder / "llava.tar.gz").as_uri(), options)
    assert not list((options.cache / "parts").iterdir())


def test_a_body_that_breaks_off_is_taken_up(folder: Path, origin: Path, options: ProvisionOptions) -> None:
    write_tar(folder / "llava.tar", origin)
    with Cdn(folder) as cdn:
        assert contents(pull(f"{cdn.url('any-short-once')}/llava.tar", options).folder) == expected(origin)
        with pytest.raises(SourceUnavailable, match="3 times in a row"):
            pull(f"{cdn.url('any-drop-always')}/llava.tar", dataclasses.replace(options, cache=options.cache / "2"))
