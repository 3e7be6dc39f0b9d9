"""https: a certificate that nobody trusts is refused, and nothing goes on in plain text."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lavatube.errors import SourceUnavailable
from lavatube.weights.options import ProvisionOptions
from lavatube.weights.provision import provision
from tests.cdn import Cdn
from tests.weights.conftest import contents, expected, with_policy

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key, in one file."""
    folder = tmp_path_factory.mktemp("tls")
    subject = ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(["openssl", "req", "-x509", *curve, *subject, *files], check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_bytes((folder / "key.pem").read_bytes() + (folder / "cert.pem").read_bytes())
    return both


@pytest.fixture
def secure(origin: Path, certificate: Path, cdn: Cdn) -> Iterator[Cdn]:
    with Cdn(origin, away=cdn.url("ok"), certificate=certificate) as server:
        yield server


def test_untrusted_certificate(secure: Cdn, options: ProvisionOptions) -> None:
    with pytest.raises(SourceUnavailable, match="certificate is not trusted"):
        provision(secure.url("ok"), options, lambda _: None)
    assert not secure.log.requests


@pytest.mark.parametrize("scenario", ["ok", "reset-once", "stall-once", "whole"])
def test_trusted_certificate(
    scenario: str,
    secure: Cdn,
    origin: Path,
    options: ProvisionOptions,
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    quick = with_policy(options, read_timeout_s=0.4) if scenario == "stall-once" else options
    assert contents(provision(secure.url(scenario), quick, lambda _: None).folder) == expected(origin)


def test_redirect_to_plain_http(
    secure: Cdn, cdn: Cdn, options: ProvisionOptions, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with pytest.raises(SourceUnavailable, match="https to http"):
        provision(secure.url("away"), options, lambda _: None)
    assert not cdn.log.requests
    assert ssl.get_default_verify_paths().openssl_cafile_env == "SSL_CERT_FILE"
