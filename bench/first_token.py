"""Process start to first token of a request that waited, with nothing cached, where the line is the bottleneck.

A checkpoint in LLaVA-1.5's shape behind a line of `BENCH_LINE_MB` megabytes a second (default 100). Beside it, in turn:
the download alone (curl, four connections, unverified), and the classic way: that download, then `from_pretrained`,
then `generate` in a fresh process. The last run's trace is kept as `BENCH_TRACE`, if that is set.
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx
from PIL import Image

from bench.engine.shapes import shapes
from bench.line import serve_folder
from bench.table import show
from lavatube.weights.manifest import FILE_NAME, build_manifest
from tests.flow.server import Server
from tests.flow.sse import events

MIB = 1024 * 1024
CONNECTIONS = 4
PROMPT = "What is in the picture?"
CLASSIC = """
import sys
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration
folder, picture = sys.argv[1:]
model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16)
processor = AutoProcessor.from_pretrained(folder)
prompt = "USER: <image>\\nWhat is in the picture? ASSISTANT:"
inputs = processor(images=Image.open(picture), text=prompt, return_tensors="pt")
model.generate(**inputs.to(dtype=torch.bfloat16), max_new_tokens=1, do_sample=False)
"""


def main() -> None:
    """Print the table."""
    rate_mb_s = float(os.environ.get("BENCH_LINE_MB", "100"))
    rounds = int(os.environ.get("BENCH_ROUNDS", "1"))
    with tempfile.TemporaryDirectory(prefix="lavatube-bench-") as name:
        scratch = Path(name)
        site = _site(scratch / "site")
        picture = scratch / "picture.png"
        Image.effect_noise((336, 336), 64.0).convert("RGB").save(picture)
        size_bytes = sum(path.stat().st_size for path in site.iterdir())
        print(f"{size_bytes / 1e9:.2f} GB at {rate_mb_s:.0f} MB/s, load {os.getloadavg()[0]:.1f}")
        rows: dict[str, list[float]] = {}
        with serve_folder(site, rate_mb_s * 1e6) as root:
            ways: dict[str, Callable[[], float]] = {
                "the download alone (curl, unverified)": lambda: _download(root, site, scratch / "out"),
                "lavatube serve to first token (verified)": lambda: _serve(root, picture, scratch / "cache"),
                "download, from_pretrained, generate": lambda: _classic(root, site, picture, scratch / "out"),
            }
            for _ in range(rounds):
                for way, run in ways.items():
                    rows.setdefault(way, []).append(run())
                    for leftover in ("out", "cache"):
                        shutil.rmtree(scratch / leftover, ignore_errors=True)
    show("process start to first token (repeat: python -m bench first_token)", rows, "s")


def _site(folder: Path) -> Path:
    """The checkpoint and its manifest, as a CDN would have them."""
    folder.mkdir()
    for path in shapes()[0].folder().iterdir():
        if path.is_file():
            (folder / path.name).symlink_to(path)
    (folder / FILE_NAME).write_text(build_manifest(folder, "bench", chunk_bytes=16 * MIB).to_json())
    return folder


def _download(root: str, site: Path, out: Path) -> float:
    """Every file; the large one in as many ranges as there are connections."""
    out.mkdir()
    begun_s = time.monotonic()
    commands = []
    for path in site.iterdir():
        size = path.stat().st_size
        pieces = CONNECTIONS if size > MIB else 1
        for piece in range(pieces):
            span = f"{size * piece // pieces}-{size * (piece + 1) // pieces - 1}"
            commands.append(["curl", "-sS", "-r", span, "-o", str(out / f"{path.name}.{piece}"), f"{root}/{path.name}"])
    running = [subprocess.Popen(command) for command in commands]
    assert all(process.wait() == 0 for process in running)
    return time.monotonic() - begun_s


def _classic(root: str, site: Path, picture: Path, out: Path) -> float:
    begun_s = time.monotonic()
    _download(root, site, out)
    for path in site.iterdir():  # joining the ranges is not what is measured
        pieces = sorted(out.glob(f"{path.name}.*"))
        if len(pieces) > 1:
            begun_s += _join(pieces, out / path.name)
        else:
            pieces[0].rename(out / path.name)
    subprocess.run([sys.executable, "-c", CLASSIC, str(out), str(picture)], check=True, stderr=subprocess.DEVNULL)
    return time.monotonic() - begun_s


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
