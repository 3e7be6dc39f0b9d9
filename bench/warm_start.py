"""With everything cached: what provisioning adds to mapping the files, and process start to ready beside transformers.

Whole processes in turn, the files in the page cache; a checkpoint in LLaVA-1.5's shape. `BENCH_ROUNDS` is how often
(default 3), `BENCH_WAYS` which ways: parts of their names, with commas between.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.engine.shapes import shapes
from bench.table import show
from lavatube.weights.manifest import FILE_NAME, build_manifest
from lavatube.weights.provision import ProvisionOptions, provision
from tests.flow.server import Server

MIB = 1024 * 1024
MAP = """
import sys
import time
from pathlib import Path
from lavatube.weights.tensors import open_tensors
uri, cache, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
begun_s = time.monotonic()
if uri:
    from lavatube.weights.provision import ProvisionOptions, provision
    folder = provision(uri, ProvisionOptions(cache=cache), lambda progress: None).folder
print(time.monotonic() - begun_s)
tensors = open_tensors(folder)
assert all(tensors.tensor(name).numel() for name in tensors.names)
"""
LOAD = """
import sys
import torch
from transformers import LlavaForConditionalGeneration
LlavaForConditionalGeneration.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
"""


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory(prefix="lavatube-bench-") as name:
        site, cache = Path(name) / "site", Path(name) / "cache"
        site.mkdir()
        for path in shapes()[0].folder().iterdir():
            (site / path.name).symlink_to(path)
        (site / FILE_NAME).write_text(build_manifest(site, "bench", chunk_bytes=16 * MIB).to_json())
        uri = site.as_uri()
        folder = provision(uri, ProvisionOptions(cache=cache), lambda progress: None).folder
        added: list[float] = []
        ways: dict[str, Callable[[], float]] = {
            "map the files": lambda: _run(MAP, "", str(cache), str(folder)),
            "provision, map the files": lambda: _run(MAP, uri, str(cache), str(folder), told=added),
            "lavatube serve, ready": lambda: _serve(uri, cache),
            "transformers, from_pretrained": lambda: _run(LOAD, str(folder)),
        }
        wanted = os.environ.get("BENCH_WAYS", "").split(",")
        rows: dict[str, list[float]] = {}
        for _ in range(int(os.environ.get("BENCH_ROUNDS", "3"))):
            for way, run in ways.items():
                if not any(part in way for part in wanted):
                    continue
                rows.setdefault(way, []).append(run())
    if added:
        rows["of that, provisioning and its imports"] = added
    show("warm start, process start to end (repeat: python -m bench warm_start)", rows, "s")


def _run(program: str, *arguments: str, told: list[float] | None = None) -> float:
    """`told` gets the seconds that the program prints."""
    begun_s = time.monotonic()
    command = [sys.executable, "-P", "-c", program, *arguments]
    ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    if told is not None:
        told.append(float(ended.stdout))
    return time.monotonic() - begun_s


def _serve(uri: str, cache: Path) -> float:
    with Server(uri, cache, "--database", "off") as server:
        server.wait_ready()
        return time.monotonic() - server.started_at
