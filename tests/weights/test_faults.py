"""Every way a CDN fails: right bytes or a clean error that names the file, in a bounded number of requests."""

from __future__ import annotations

import dataclasses
import shutil
import time
from pathlib import Path

import pytest

from lavatube.errors import DigestMismatch, LavatubeError, SourceUnavailable, UntrustedSource
from lavatube.weights.manifest import FILE_NAME, read_manifest
from lavatube.weights.options import ProvisionOptions
from lavatube.weights.provision import Progress, provision
from tests.cdn import Cdn
from tests.hub import TOKEN, FakeHub
from tests.weights.conftest import POLICY, SIZES, WEIGHTS, contents, expected, pull, with_policy

NUM_CHUNKS = 10 + 3


def test_clean_fetch_asks_for_each_chunk_once(cdn: Cdn, origin: Path, options: ProvisionOptions) -> None:
    reports: list[Progress] = []
    provisioned = provision(cdn.url("ok"), options, reports.append)
    assert contents(provisioned.folder) == expected(origin)
    assert provisioned.trust == "manifest"
    assert not provisioned.from_cache
    assert len(cdn.log.weights()) == NUM_CHUNKS
    assert "README.md" not in {request.name for request in cdn.log.requests}
    assert (reports[0].phase, reports[-1].phase) == ("resolving", "ready")
    assert reports[-1].done_bytes == reports[-1].total_bytes == sum(SIZES.values())
    assert all(0 <= report.done_bytes <= report.total_bytes for report in reports)
    assert all(path.stat().st_mode & 0o777 == 0o444 for path in provisioned.folder.iterdir())
    assert not list((options.cache / "parts").iterdir())


@pytest.mark.parametrize(
    ("scenario", "most_requests"),
    [
        ("short-once", NUM_CHUNKS + 2),
        ("short-always", NUM_CHUNKS * 20),  # halves of halves, until the rest is small: progress, so no error
        ("reset-once", NUM_CHUNKS + 2),
        ("stall-once", NUM_CHUNKS + 2),
        ("500-once", NUM_CHUNKS + 2),
        ("shifted-once", NUM_CHUNKS + 2),
        ("gzip-once", NUM_CHUNKS + 2),
        ("flip-once", 2 * NUM_CHUNKS),
        ("whole", 2 * POLICY.connections + 2),
        ("whole-once", NUM_CHUNKS + 2),
        ("offset-once", NUM_CHUNKS + 2),
        ("portal-once", NUM_CHUNKS + 2),
        ("busy-once", NUM_CHUNKS + 2),
        ("bighead-once", NUM_CHUNKS + 2),
        ("trickle-once", NUM_CHUNKS + 2),
        ("crawl-once", NUM_CHUNKS + 2),
        ("crowded-once", NUM_CHUNKS + 2),
        ("late-once", NUM_CHUNKS + 2),
        ("late-twice", NUM_CHUNKS + 4),
    ],
)
def test_mended(scenario: str, most_requests: int, cdn: Cdn, origin: Path, options: ProvisionOptions) -> None:
    if scenario == "short-always":
        options = with_policy(options, min_progress_bytes=1, backoff_s=0.001)
    if scenario in ("stall-once", "trickle-once", "crawl-once", "late-once", "late-twice"):
        options = with_policy(options, read_timeout_s=0.4)
    provisioned = pull(cdn.url(scenario), options)
    assert contents(provisioned.folder) == expected(origin)
    assert len(cdn.log.weights()) <= most_requests


@pytest.mark.parametrize("status", ["503", "429"])
def test_retry_after_is_honoured(status: str, cdn: Cdn, origin: Path, options: ProvisionOptions) -> None:
    started = time.monotonic()
    provisioned = pull(cdn.url(f"{status}-once"), options)
    assert time.monotonic() - started >= 1.0
    assert contents(provisioned.folder) == expected(origin)
    assert len(cdn.log.weights()) == NUM_CHUNKS + 2


def test_a_server_that_refuses_more_connections(options: ProvisionOptions, large: Path) -> None:
    """What it gives to six at once is fetched by six: who is refused leaves, and is no reason to give up."""
    with Cdn(large) as cdn:
        provisioned = pull(cdn.url("limited"), with_policy(options, max_connections=32))
        assert contents(provisioned.folder).items() <= contents(large).items()
        assert (provisioned.folder / "model.safetensors").is_file()
        assert 0 < cdn.log.counts["refused"] <= 2 * 8


@pytest.mark.parametrize(
    ("scenario", "error_type", "said", "most_requests"),
    [
        ("short-always", SourceUnavailable, "ended early", 12 * POLICY.connections),
        ("reset-always", SourceUnavailable, "times in a row without progress", 12 * POLICY.connections),
        ("stall-always", SourceUnavailable, "nothing came for too long", 12 * POLICY.connections),
        ("shifted", SourceUnavailable, "Content-Range", 3 * POLICY.connections),
        ("gzip", SourceUnavailable, "compressed", 3 * POLICY.connections),
        ("500", SourceUnavailable, "status 500", 3 * POLICY.connections),
        ("404", SourceUnavailable, "status 404", POLICY.connections),
        ("unsized", SourceUnavailable, "times in a row without progress", 12 * POLICY.connections),
        ("offset", SourceUnavailable, "Content-Range", 3 * POLICY.connections),
        ("portal", SourceUnavailable, "Content-Length", 3 * POLICY.connections),
        ("busy", SourceUnavailable, "status 503", 3 * POLICY.connections),
        ("bighead", SourceUnavailable, "LineTooLong", 3 * POLICY.connections),
        ("manyheads", SourceUnavailable, "HTTPException", 3 * POLICY.connections),
        ("trickle", SourceUnavailable, "slower than", 3 * POLICY.connections),
        ("crawl", SourceUnavailable, "times in a row without progress", 3 * POLICY.connections),
        ("late-always", SourceUnavailable, "nothing came for too long", 12 * POLICY.connections + NUM_CHUNKS),
        ("401", SourceUnavailable, "token", POLICY.connections),
        ("416", SourceUnavailable, "shorter than its manifest says", POLICY.connections),
        ("403", SourceUnavailable, "token", POLICY.connections),
        ("loop", SourceUnavailable, "more than 5 redirects", 6 * POLICY.connections),
        ("file", SourceUnavailable, "no http(s) URL", POLICY.connections),
        ("garbled", SourceUnavailable, "no http(s) URL", POLICY.connections),
        ("metadata", SourceUnavailable, "plain http", POLICY.connections),
    ],
)
def test_given_up(
    scenario: str,
    error_type: type[LavatubeError],
    said: str,
    most_requests: int,
    cdn: Cdn,
    options: ProvisionOptions,
) -> None:
    if scenario in ("stall-always", "trickle", "crawl", "late-always"):
        options = with_policy(options, read_timeout_s=0.4)
    with pytest.raises(error_type) as caught:
        pull(cdn.url(scenario), options)
    assert said in caught.value.sentence
    assert "model-0000" in caught.value.message, "the file is named"
    assert caught.value.remedy
    assert len(cdn.log.weights()) <= most_requests
    assert not list(options.cache.glob("trees/*"))


@pytest.mark.parametrize("scenario", ["any-crawl", "any-trickle"])
def test_a_manifest_that_never_ends(scenario: str, cdn: Cdn, options: ProvisionOptions) -> None:
    with pytest.raises(SourceUnavailable, match="without progress"):
        pull(cdn.url(scenario), with_policy(options, read_timeout_s=0.4))


def test_lasting_corruption_names_both_digests(cdn: Cdn, origin: Path, options: ProvisionOptions) -> None:
    with pytest.raises(DigestMismatch) as caught:
        pull(cdn.url("flip"), options)
    manifest_text = (origin / "lavatube.lock.json").read_text()
    named = next(name for name in WEIGHTS if name in caught.value.message)
    digests = [word.strip(",;") for word in caught.value.message.split() if len(word.strip(",;")) == 64]
    assert [digest in manifest_text for digest in digests] == [False, True], "the actual one, then the expected one"
    assert len([request for request in cdn.log.weights() if request.name == named]) <= 2 * NUM_CHUNKS
    assert not list(options.cache.glob(f"blobs/sha256/*/{digests[0]}"))
    assert not list(options.cache.glob(f"parts/{digests[1]}*")), "bytes that are known to be wrong are not kept"


def test_what_was_fetched_before_the_error_is_kept(cdn: Cdn, origin: Path, options: ProvisionOptions) -> None:
    with pytest.raises(SourceUnavailable, match="status 404"):
        pull(cdn.url("dry-6"), with_policy(options, connections=1))
    cdn.log.requests.clear()
    assert contents(pull(cdn.url("ok"), options).folder) == expected(origin)
    assert len(cdn.log.weights()) == NUM_CHUNKS - 6


def test_redirect_elsewhere_is_followed(cdn: Cdn, origin: Path, options: ProvisionOptions) -> None:
    with Cdn(origin, away=cdn.url("ok")) as front:
        assert contents(pull(front.url("away"), options).folder) == expected(origin)
    assert len(cdn.log.weights()) == len(front.log.weights()) == NUM_CHUNKS


def test_redirect_to_link_local_is_refused_even_where_http_is_allowed(
    cdn: Cdn, origin: Path, options: ProvisionOptions
) -> None:
    with pytest.raises(SourceUnavailable, match="not public"):
        pull(cdn.url("metadata"), dataclasses.replace(options, lock=origin / "lavatube.lock.json"))


def test_an_interrupted_caller_waits_for_nothing(cdn: Cdn, options: ProvisionOptions) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.phase == "fetching" and cdn.log.sent_bytes > 0:
            raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        provision(cdn.url("stall-always"), with_policy(options, read_timeout_s=20.0), interrupt)
    assert time.monotonic() - started < 15


def test_a_host_that_can_not_be(options: ProvisionOptions) -> None:
    with pytest.raises(SourceUnavailable, match="no host name"):
        pull(f"https://{'a' * 64}.example/llava", options)


def test_nothing_listens(origin: Path, options: ProvisionOptions) -> None:
    with Cdn(origin) as server:
        url = server.url("ok")
    with pytest.raises(SourceUnavailable, match="3 times in a row"):
        pull(url, options)


def test_no_manifest_is_refused(cdn: Cdn, options: ProvisionOptions) -> None:
    with pytest.raises(UntrustedSource) as caught:
        pull(cdn.url("bare"), options)
    assert "lavatube lock" in caught.value.remedy
    assert not cdn.log.weights()


def test_no_manifest_is_taken_when_allowed(origin: Path, options: ProvisionOptions, tmp_path: Path) -> None:
    folder = tmp_path / "single"
    folder.mkdir()
    (folder / "config.json").write_bytes(b"{}")
    (folder / "model.safetensors").write_bytes((origin / WEIGHTS[1]).read_bytes())
    with Cdn(folder) as server:
        provisioned = pull(server.url("bare"), dataclasses.replace(options, allow_unverified=True))
    assert provisioned.trust == "unverified"
    assert contents(provisioned.folder) == contents(folder)


def test_unverified_is_fetched_once_where_the_server_marks_versions(
    origin: Path, options: ProvisionOptions, tmp_path: Path
) -> None:
    folder = tmp_path / "single"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes((origin / WEIGHTS[1]).read_bytes())
    options = dataclasses.replace(options, allow_unverified=True)
    with Cdn(folder) as server:
        assert not pull(server.url("marked"), options).from_cache
        assert pull(server.url("marked"), options).from_cache
        assert not pull(server.url("bare"), options).from_cache


def test_a_file_that_changes_meanwhile_is_never_mixed(origin: Path, options: ProvisionOptions, tmp_path: Path) -> None:
    folder = tmp_path / "single"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes((origin / WEIGHTS[0]).read_bytes())
    with Cdn(folder) as server, pytest.raises(SourceUnavailable, match="changed while it was fetched"):
        pull(server.url("versions"), dataclasses.replace(options, allow_unverified=True))


def test_plain_http_beyond_loopback_is_refused(options: ProvisionOptions) -> None:
    with pytest.raises(UntrustedSource, match="plain http"):
        pull("http://weights.example/llava", options)


def test_an_object_that_is_replaced_between_ranges(cdn: Cdn, origin: Path, options: ProvisionOptions) -> None:
    """The digest decides: a mix of two versions never has a name, and the whole new one has not either."""
    with pytest.raises(DigestMismatch):
        pull(cdn.url("replaced"), options)
    assert not list(options.cache.glob("trees/*"))
    assert contents(pull(cdn.url("ok"), options).folder) == expected(origin)


def test_a_signature_that_expires_is_asked_for_anew(cdn: Cdn, origin: Path, options: ProvisionOptions) -> None:
    """With one connection: of several in step, the same one could meet every fourth answer."""
    with FakeHub(cdn, scenario="signed") as hub:
        hub_options = dataclasses.replace(with_policy(options, connections=1), hf_endpoint=hub.root)
        assert contents(pull("org/name", hub_options).folder) == expected(origin)
        signed = [request for request in hub.log.requests if request.name.endswith(".safetensors")]
    assert len(signed) == cdn.log.counts["signed"] > NUM_CHUNKS, "some were refused, and none was tried again as it was"


def test_a_redirect_takes_no_header_along(cdn: Cdn, origin: Path, options: ProvisionOptions) -> None:
    with FakeHub(cdn, is_gated=True) as hub:
        pull("org/name", dataclasses.replace(options, hf_endpoint=hub.root, hf_token=TOKEN))
    sent = {name for request in cdn.log.requests for name in request.headers}
    assert sent == {"Host", "User-Agent", "Accept-Encoding", "Range"}


def test_a_wrong_digest_in_the_manifest(origin: Path, options: ProvisionOptions, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(origin, tmp_path / "copy"))
    manifest = read_manifest(folder / FILE_NAME)
    files = tuple(
        dataclasses.replace(file, sha256="0" * 64) if file.path == WEIGHTS[0] else file for file in manifest.files
    )
    (folder / FILE_NAME).write_text(dataclasses.replace(manifest, files=files).to_json())
    with Cdn(folder) as cdn, pytest.raises(DigestMismatch, match=r"0{64} was expected") as caught:
        pull(cdn.url("ok"), options)
    assert "disagree" in caught.value.remedy
    assert not list((options.cache / "parts").glob("0*"))
