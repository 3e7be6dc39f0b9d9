"""Ways to get files from a server, each as the processes that a user would start: our pull, and its peers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from bench.cdn import Cdn
from bench.hub import REPOSITORY, environment

FLOOR = "receive to files, C (unverified)"
FLOOR_SYNCED = "receive to files, C, then fsync (unverified)"
PULL = "lavatube pull (verified, in the cache, fsynced)"
_PULL_WITH = """
import sys
from pathlib import Path
from lavatube.weights.provision import Policy, ProvisionOptions, provision
uri, cache, connections = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
policy = Policy(connections=connections, max_connections=connections)
provision(uri, ProvisionOptions(cache=cache, policy=policy), lambda progress: None)
"""
_SNAPSHOT = "import sys; from huggingface_hub import snapshot_download; snapshot_download(*sys.argv[1:2])"


@dataclass(frozen=True, slots=True)
class Command:
    arguments: Sequence[str | Path]
    environment: Mapping[str, str] = field(default_factory=dict)

    def start(self) -> subprocess.Popen[bytes]:
        environment = {**os.environ, **self.environment}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # what is installed is compiled
        return subprocess.Popen(self.arguments, stdout=subprocess.DEVNULL, env=environment)


@dataclass(frozen=True, slots=True)
class Cost:
    """Wall time, CPU seconds of all processes together, and what serving them has cost beside that."""

    wall_s: float
    cpu_s: float
    server_cpu_s: float


def run(commands: Sequence[Command], cdn: Cdn) -> Cost:
    """Run them at the same time."""
    served_s, started_s = cdn.cpu_s(), time.monotonic()
    usages = []
    for process in [command.start() for command in commands]:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, process.args
        usages.append(usage)
    wall_s, cpu_s = time.monotonic() - started_s, sum(usage.ru_utime + usage.ru_stime for usage in usages)
    return Cost(wall_s, cpu_s, cdn.cpu_s() - served_s)


def ways_to(cdn: Cdn, out: Path) -> dict[str, list[Command]]:
    """Every way that this machine has, with the folder that it may fill."""
    receive = cdn.folder / "receive"
    subprocess.run(["cc", "-O2", "-pthread", "-o", receive, Path(__file__).with_name("receive.c")], check=True)
    port = cdn.root.rpartition(":")[2]
    pairs = [argument for name in cdn.names for argument in (f"/free/{name}", out / name)]
    urls = [argument for name in cdn.names for argument in ("-o", out / name, f"{cdn.free}/{name}")]
    hashed = "; ".join(f"curl -sS {cdn.free}/{name} | sha256sum" for name in cdn.names)
    return {
        FLOOR: [Command([receive, port, *pairs])],
        FLOOR_SYNCED: [Command([receive, port, *pairs], {"RECEIVE_FSYNC": "1"})],
        "curl, 4 connections, to files (unverified)": [
            Command(["curl", "-sS", "--no-progress-meter", "-Z", "--parallel-max", "4", *urls])
        ],
        "curl, one after another, through sha256sum": [Command(["sh", "-c", hashed])],
        **_aria2(cdn, out),
        **_huggingface_hub(cdn, out),
        PULL: [pull(cdn.free, out)],
        "two at once on one cache": [pull(cdn.free, out)] * 2,
    }


def pull(root: str, cache: Path) -> Command:
    return Command([sys.executable, "-P", "-m", "lavatube.cli", "pull", "--json", root, "--cache", cache])


def pull_with(root: str, cache: Path, connections: int, environment: Mapping[str, str] | None = None) -> Command:
    return Command([sys.executable, "-P", "-c", _PULL_WITH, root, cache, str(connections)], environment or {})


def _aria2(cdn: Cdn, out: Path) -> dict[str, list[Command]]:
    if shutil.which("aria2c") is None:
        return {}
    listed = cdn.folder / "aria2.txt"
    listed.write_text(
        "".join(f"{cdn.free}/{name}\n  out={name}\n  checksum=sha-256={cdn.sha256[name]}\n" for name in cdn.names)
    )
    options = ["-q", "-x16", "-s16", "-j4", "-k1M", "--file-allocation=falloc", "--check-integrity=true"]
    return {"aria2c -x16 -j4 (verified)": [Command(["aria2c", *options, "-i", listed, "-d", out])]}


def _huggingface_hub(cdn: Cdn, out: Path) -> dict[str, list[Command]]:
    if find_spec("huggingface_hub") is None:
        return {}
    variables = environment(cdn.root, str(out))
    digests = cdn.folder / "digests"
    snapshot = out / "hub" / f"models--{REPOSITORY.replace('/', '--')}" / "snapshots" / "*"
    digests.write_text("".join(f"{digest}  {name}\n" for name, digest in cdn.sha256.items()))
    fetch = f"{sys.executable} -P -c '{_SNAPSHOT}' {REPOSITORY}"
    return {
        "huggingface_hub (unverified)": [Command(["sh", "-c", fetch], variables)],
        "huggingface_hub, then sha256sum -c": [
            Command(["sh", "-c", f"{fetch} && cd {snapshot} && sha256sum -c {digests}"], variables)
        ],
    }
