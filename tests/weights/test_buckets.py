"""Buckets through the real obstore, against a real server that speaks S3: listing, ranges, signatures, refusals."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lavatube.errors import InvalidSetting, SourceUnavailable, UntrustedSource
from lavatube.weights.manifest import FILE_NAME
from lavatube.weights.options import ProvisionOptions
from lavatube.weights.provision import Progress, Provisioned, provision
from tests.weights.bucket_server import KEY, SECRET, BucketServer
from tests.weights.conftest import contents, expected, with_policy

MODEL = "s3://bucket/models"
SHARD = "model-00002-of-00002.safetensors"

pytest.importorskip("obstore", reason="buckets need the extra lavatube[cloud]")


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """No credentials but the test's own."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def bucket(origin: Path) -> Iterator[BucketServer]:
    with BucketServer(origin) as server:
        yield server


def pull(
    bucket: BucketServer, options: ProvisionOptions, model: str = MODEL, *, is_unsigned: bool = True
) -> Provisioned:
    options = dataclasses.replace(options, bucket_endpoint=bucket.root, bucket_unsigned=is_unsigned)
    return provision(model, options, lambda _: None)


def test_a_public_bucket_with_a_manifest(bucket: BucketServer, origin: Path, options: ProvisionOptions) -> None:
    provisioned = pull(bucket, options)
    assert provisioned.trust == "manifest"
    assert provisioned.source == MODEL
    assert contents(provisioned.folder) == expected(origin)
    assert not any("Authorization" in request.headers for request in bucket.log.requests)
    assert pull(bucket, options).from_cache


def test_a_body_that_breaks_off_is_taken_up(bucket: BucketServer, origin: Path, options: ProvisionOptions) -> None:
    bucket.breaks = [f"models/{SHARD}"] * 2
    assert contents(pull(bucket, options).folder) == expected(origin)
    assert not bucket.breaks


def test_a_body_in_a_trickle_is_given_up(bucket: BucketServer, options: ProvisionOptions) -> None:
    bucket.is_trickling = True
    with pytest.raises(SourceUnavailable, match="slower than"):
        pull(bucket, with_policy(options, read_timeout_s=0.3))


def test_who_is_interrupted_waits_for_no_trickle(bucket: BucketServer, options: ProvisionOptions) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.phase == "fetching" and len(bucket.log.requests) > 6:
            raise KeyboardInterrupt

    bucket.is_trickling = True
    started = time.monotonic()
    options = dataclasses.replace(options, bucket_endpoint=bucket.root, bucket_unsigned=True)
    with pytest.raises(KeyboardInterrupt):
        provision(MODEL, with_policy(options, read_timeout_s=60.0), interrupt)
    assert time.monotonic() - started < 15


def test_a_bucket_that_wants_to_be_asked_more_slowly(options: ProvisionOptions, large: Path) -> None:
    with BucketServer(large) as bucket:
        bucket.slots = threading.BoundedSemaphore(6)
        provisioned = pull(bucket, with_policy(options, max_connections=32, max_tries=5, backoff_s=0.1))
        assert contents(provisioned.folder).items() <= contents(large).items()
        assert (provisioned.folder / "model.safetensors").is_file()
        assert bucket.log.counts["refused"] > 0


def test_a_private_bucket_wants_credentials(
    origin: Path, options: ProvisionOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    with BucketServer(origin, is_private=True) as bucket:
        with pytest.raises(SourceUnavailable, match="refuses access") as caught:
            pull(bucket, options)
        assert bucket.root not in caught.value.sentence
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        assert contents(pull(bucket, options, is_unsigned=False).folder) == expected(origin)
        assert not any(SECRET in str(request.headers) for request in bucket.log.requests)


def test_no_manifest_is_refused_unless_allowed(options: ProvisionOptions, origin: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    folder.mkdir()
    (folder / "config.json").write_bytes(b"{}")
    (folder / "model.safetensors").write_bytes((origin / SHARD).read_bytes())
    (folder / "train.log").write_bytes(b"not fetched")
    with BucketServer(folder) as bucket:
        with pytest.raises(UntrustedSource, match="nothing vouches"):
            pull(bucket, options)
        allowed = dataclasses.replace(options, allow_unverified=True)
        provisioned = pull(bucket, allowed)
        assert provisioned.trust == "unverified"
        assert set(contents(provisioned.folder)) == {"config.json", "model.safetensors"}
        assert pull(bucket, allowed).from_cache, "their versions name them"


def test_one_object(bucket: BucketServer, origin: Path, options: ProvisionOptions) -> None:
    provisioned = pull(bucket, options, f"{MODEL}/{SHARD}")
    assert contents(provisioned.folder) == {SHARD: (origin / SHARD).read_bytes()}
    assert provisioned.trust == "manifest"


def test_pinned(bucket: BucketServer, origin: Path, options: ProvisionOptions) -> None:
    assert pull(bucket, dataclasses.replace(options, lock=origin / FILE_NAME)).trust == "pinned"


def test_an_object_that_went(bucket: BucketServer, origin: Path, options: ProvisionOptions, tmp_path: Path) -> None:
    options = dataclasses.replace(options, lock=origin / FILE_NAME)
    with pytest.raises(SourceUnavailable, match="no such object"):
        pull(bucket, options, "s3://bucket/elsewhere")


def test_nobody_listens(origin: Path, options: ProvisionOptions) -> None:
    with BucketServer(origin) as server:
        pass
    with pytest.raises(SourceUnavailable, match="3 times in a row"):
        pull(server, options)


@pytest.mark.parametrize("model", ["s3://", "s3:///x", "s3://Bucket/x", "s3://b/../x", "s3://b/x?y=1", "gs://a b/x"])
def test_no_bucket(model: str, options: ProvisionOptions) -> None:
    with pytest.raises(InvalidSetting, match="not of the form"):
        provision(model, options, lambda _: None)


def test_plain_http_beyond_loopback_is_refused(options: ProvisionOptions) -> None:
    options = dataclasses.replace(options, bucket_endpoint="http://storage.example")
    with pytest.raises(UntrustedSource, match="plain http"):
        provision(MODEL, options, lambda _: None)


@pytest.mark.parametrize("model", ["gs://bucket/models", "az://bucket/models"])
def test_the_other_clouds(
    model: str, bucket: BucketServer, origin: Path, options: ProvisionOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a manifest their reads are alike; their listings and signatures are obstore's, and are not tested here."""
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    provisioned = pull(bucket, options, model)
    assert contents(provisioned.folder) == expected(origin)
