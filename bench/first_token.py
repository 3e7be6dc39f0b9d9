"""Process start to first token of a request that waited, with nothing cached.

A checkpoint in LLaVA-1.5's shape behind one of two kinds of line: `BENCH_LINE_MB` megabytes a second in all (default
100), or, as a CDN gives it, `BENCH_CONNECTION_MIB` MiB a second to each connection. Beside it, in turn: the download
alone (curl, unverified), and the classic way: a download, then `from_pretrained`, then `generate` in a fresh process.
The download is curl's, with 4 connections, of a line by connections also with 16; and `huggingface_hub`'s as it comes,
where it is installed. `generate` computes in bfloat16, or in float32 where the processor has no instructions for that
and torch is several times as slow in it. `BENCH_ROUNDS` is how often (default 1), `BENCH_WAYS` which ways: parts of
their names, with commas between. The last run's trace is kept as `BENCH_TRACE`, if that is set.
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import httpx
from PIL import Image

from bench.engine.shapes import shapes
from bench.hub import REPOSITORY, environment
from bench.line import serve_folder
from bench.table import show
from lavatube.model.native import LEVELS, native
from lavatube.weights.manifest import FILE_NAME, Manifest, build_manifest
from tests.flow.server import Server
from tests.flow.sse import events

MIB = 1024 * 1024
CONNECTIONS = 4
MORE = 16
BFLOAT16_LEVEL = len(LEVELS) - 1
PROMPT = "What is in the picture?"
CLASSIC = """
import sys
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration
folder, picture, dtype = sys.argv[1:]
model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=getattr(torch, dtype))
processor = AutoProcessor.from_pretrained(folder)
prompt = "USER: <image>\\nWhat is in the picture? ASSISTANT:"
inputs = processor(images=Image.open(picture), text=prompt, return_tensors="pt")
model.generate(**inputs.to(dtype=model.dtype), max_new_tokens=1, do_sample=False)
"""
SNAPSHOT = "import sys; from huggingface_hub import snapshot_download; print(snapshot_download(sys.argv[1]))"
SERVE = "lavatube serve to first token (verified)"


def main() -> None:
    """Print the table."""
    connection_mib_s = float(os.environ.get("BENCH_CONNECTION_MIB", "0"))
    line_mb_s = float(os.environ.get("BENCH_LINE_MB", "0" if connection_mib_s else "100"))
    rounds = int(os.environ.get("BENCH_ROUNDS", "1"))
    with tempfile.TemporaryDirectory(prefix="lavatube-bench-") as name:
        scratch = Path(name)
        site, manifest = _site(scratch / "site")
        picture = scratch / "picture.png"
        Image.effect_noise((336, 336), 64.0).convert("RGB").save(picture)
        line = f"{line_mb_s:.0f} MB/s in all" if line_mb_s else f"{connection_mib_s:.0f} MiB/s a connection"
        print(f"{manifest.total_bytes / 1e9:.2f} GB at {line}, load {os.getloadavg()[0]:.1f}")
        with serve_folder(manifest, site, line_mb_s * 1e6, connection_mib_s * MIB) as root:
            ways = _ways(root, site, scratch, [CONNECTIONS, MORE] if connection_mib_s else [CONNECTIONS])
            rows: dict[str, list[float]] = {}
            for _ in range(rounds):
                for way, run in ways.items():
                    rows.setdefault(way, []).append(run())
                    for leftover in ("out", "cache"):
                        shutil.rmtree(scratch / leftover, ignore_errors=True)
    show("process start to first token (repeat: python -m bench first_token)", rows, "s")
    if SERVE in rows:
        ours = rows[SERVE]
        ratios = {way: [other / own for other, own in zip(row, ours, strict=True)] for way, row in rows.items()}
        show("over lavatube serve in the same round", ratios, "x")


def _ways(root: str, site: Path, scratch: Path, counts: Sequence[int]) -> dict[str, Callable[[], float]]:
    picture, out = scratch / "picture.png", scratch / "out"
    ways: dict[str, Callable[[], float]] = {SERVE: lambda: _serve(root, picture, scratch / "cache")}
    for count in counts:
        fetch = f"curl, {count} connections"
        ways[f"the download alone ({fetch}, unverified)"] = partial(_download, root, site, out, count)
        ways[f"{fetch}, then from_pretrained, generate"] = partial(_classic, root, site, picture, out, count)
    if find_spec("huggingface_hub") is not None:
        ways["huggingface_hub, then from_pretrained, generate"] = partial(_classic_hub, root, picture, out)
    wanted = os.environ.get("BENCH_WAYS", "")
    return {way: run for way, run in ways.items() if any(part in way for part in wanted.split(","))}


def _site(folder: Path) -> tuple[Path, Manifest]:
    """The checkpoint and its manifest, as a CDN would have them."""
    folder.mkdir()
    for path in shapes()[0].folder().iterdir():
        if path.is_file():
            (folder / path.name).symlink_to(path)
    manifest = build_manifest(folder, "bench", chunk_bytes=16 * MIB)
    (folder / FILE_NAME).write_text(manifest.to_json())
    return folder, manifest


def _download(root: str, site: Path, out: Path, connections: int) -> float:
    """Every file; the large one in as many ranges as there are connections."""
    out.mkdir()
    begun_s = time.monotonic()
    commands = []
    for path in site.iterdir():
        size = path.stat().st_size
        pieces = connections if size > MIB else 1
        for piece in range(pieces):
            span = f"{size * piece // pieces}-{size * (piece + 1) // pieces - 1}"
            commands.append(["curl", "-sS", "-r", span, "-o", str(out / f"{path.name}.{piece}"), f"{root}/{path.name}"])
    running = [subprocess.Popen(command) for command in commands]
    assert all(process.wait() == 0 for process in running)
    return time.monotonic() - begun_s


def _classic(root: str, site: Path, picture: Path, out: Path, connections: int) -> float:
    begun_s = time.monotonic()
    _download(root, site, out, connections)
    for path in site.iterdir():  # joining the ranges is not what is measured
        pieces = sorted(out.glob(f"{path.name}.*"), key=lambda piece: int(piece.suffix[1:]))
        if len(pieces) > 1:
            begun_s += _join(pieces, out / path.name)
        else:
            pieces[0].rename(out / path.name)
    _generate(out, picture)
    return time.monotonic() - begun_s


def _classic_hub(root: str, picture: Path, out: Path) -> float:
    """With as many connections as the library takes: one a file, for up to 8 files."""
    begun_s = time.monotonic()
    variables = {**os.environ, **environment(root, str(out))}
    command = [sys.executable, "-P", "-c", SNAPSHOT, REPOSITORY]
    fetched = subprocess.run(command, env=variables, check=True, stdout=subprocess.PIPE, text=True)
    _generate(Path(fetched.stdout.strip()), picture)
    return time.monotonic() - begun_s


def _generate(folder: Path, picture: Path) -> None:
    kernels = native()
    dtype = "bfloat16" if kernels is not None and kernels.level == BFLOAT16_LEVEL else "float32"
    command = [sys.executable, "-c", CLASSIC, str(folder), str(picture), dtype]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def _join(pieces: list[Path], whole: Path) -> float:
    begun_s = time.monotonic()
    with whole.open("wb") as joined:
        for piece in pieces:
            with piece.open("rb") as file:
                shutil.copyfileobj(file, joined, MIB)
            piece.unlink()
    return time.monotonic() - begun_s


def _serve(root: str, picture: Path, cache: Path) -> float:
    flags = ["--queue-while-starting", "--image-urls", "off", "--database", "off"]
    if trace := os.environ.get("BENCH_TRACE"):
        flags += ["--trace", trace]
    with Server(root, cache, *flags) as server:
        url = "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()
        body = {"input": {"image": url, "prompt": PROMPT, "temperature": 0, "max_tokens": 2}}
        headers = {"Accept": "text/event-stream"}
        with httpx.stream("POST", f"{server.url}/predictions", json=body, headers=headers, timeout=600) as response:
            first = next(event for event in events(response) if event.name == "output")
        server.wait_ready()
        return first.at - server.started_at
