"""The files for those who run it in containers: what they name exists, and the health check tells ready from not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lavatube.serve.health import PROBE_PATHS
from lavatube.settings import Settings, options
from tests.serve.live import LiveServer

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
MANIFEST = ROOT / "deploy" / "kubernetes.yaml"


@pytest.mark.parametrize("file", ["deploy/Dockerfile", "deploy/kubernetes.yaml", "docs/deploy.md"])
def test_every_variable_is_a_setting(file: str) -> None:
    named = set(re.findall(r"LAVATUBE_[A-Z_]+[A-Z]", (ROOT / file).read_text(encoding="utf-8")))
    assert named <= {option.variable for option in options()} | {"LAVATUBE_NAME"}


def test_what_is_copied_is_there_and_reaches_the_builder() -> None:
    sources = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    names = [name for line in sources for name in line.split()]
    assert len(names) >= 5
    for name in names:
        assert (ROOT / name).exists()
        assert name in let_in


def test_the_probes_of_the_manifest_are_probes() -> None:
    deployment = next(yaml.safe_load_all(MANIFEST.read_text(encoding="utf-8")))
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    probes = [container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")]
    assert set(probes) <= PROBE_PATHS
    grace = next(each["value"] for each in container["env"] if each["name"] == "LAVATUBE_SHUTDOWN_GRACE_S")
    assert Settings().shutdown_grace_s <= float(grace) < pod["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("is_ready", [True, False])
def test_the_health_check_tells_ready_from_not(tmp_path: Path, is_ready: bool) -> None:
    with LiveServer(tmp_path, is_ready=is_ready) as server:
        environ = os.environ | {"PORT": str(server.port), "http_proxy": "http://127.0.0.1:1"}
        command = [sys.executable, ROOT / "deploy" / "healthcheck.py"]
        ended = subprocess.run(command, env=environ, timeout=100, check=False)
    assert (ended.returncode == 0) == is_ready
