"""Pictures are opened in children that can be killed, and nothing that a picture does reaches the front."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from lavatube.errors import ImageRejected, ImageTooLarge, Overloaded
from lavatube.prompt.decoder import Decoded, ImageDecoder, Treatment
from lavatube.prompt.images import ImageLimits
from lavatube.prompt.sandbox import SandboxBusy, SandboxError, SandboxLimits, SandboxPool

from .builders import KIT, cut, encoded, needs_kit, pixel_spec, scan_bomb, scene

LIMITS = ImageLimits()
CHILD = "lavatube.prompt.decode_child"


@pytest.fixture(scope="module")
def decoder() -> Iterator[ImageDecoder]:
    decoder = ImageDecoder(2, cpu_limit_s=0.7)
    yield decoder
    decoder.close()


def test_a_child_gives_what_the_same_code_gives_here(decoder: ImageDecoder) -> None:
    decoded = decoder.decode(encoded(scene(97, 61)), Treatment(pixel_spec("pad")), LIMITS)
    assert decoded == Decoded(cut(scene(97, 61), pixel_spec("pad")).data, 1, 32, 97, 61)


def test_size_is_that_of_the_upright_picture(decoder: ImageDecoder) -> None:
    tags = Image.Exif()
    tags[0x0112] = 6
    decoded = decoder.decode(encoded(scene(64, 48), "JPEG", exif=tags.tobytes()), Treatment(pixel_spec()), LIMITS)
    assert (decoded.width, decoded.height) == (48, 64)


def test_a_refusal_crosses_the_border_as_what_it_is(decoder: ImageDecoder) -> None:
    pids = decoder.pids
    with pytest.raises(ImageTooLarge, match="more than 100 pixels"):
        decoder.decode(encoded(scene()), Treatment(pixel_spec()), ImageLimits(max_pixels=100))
    with pytest.raises(ImageRejected, match="broken"):
        decoder.decode(encoded(scene())[:60], Treatment(pixel_spec()), LIMITS)
    assert decoder.pids == pids


def test_a_scan_bomb_ends_its_child_and_not_the_decoder(decoder: ImageDecoder) -> None:
    bomb, before = scan_bomb(), set(decoder.pids)
    started = time.monotonic()
    with pytest.raises(ImageRejected, match="within the limits"):
        decoder.decode(bomb, Treatment(pixel_spec()), LIMITS)
    assert time.monotonic() - started < 10
    assert len(before & set(decoder.pids)) == 1
    assert decoder.decode(encoded(scene()), Treatment(pixel_spec()), LIMITS).tiles == 1


def test_memory_is_limited() -> None:
    small = ImageDecoder(1, memory_limit_bytes=120 * 1024 * 1024)
    try:
        with pytest.raises(ImageRejected):
            small.decode(encoded(Image.new("1", (7000, 7000))), Treatment(pixel_spec()), LIMITS)
        assert small.decode(encoded(scene()), Treatment(pixel_spec()), LIMITS).tiles == 1
    finally:
        small.close()


def test_a_child_that_was_killed_is_replaced_before_the_next_picture(decoder: ImageDecoder) -> None:
    for pid in decoder.pids:
        os.kill(pid, signal.SIGKILL)
    time.sleep(0.1)
    for _ in range(2):
        assert decoder.decode(encoded(scene()), Treatment(pixel_spec()), LIMITS).tiles == 1


def test_a_stopped_child_costs_its_picture_the_wall_limit_only() -> None:
    decoder = ImageDecoder(1, wall_limit_s=0.7)
    try:
        decoder.decode(encoded(scene()), Treatment(pixel_spec()), LIMITS)
        os.kill(decoder.pids[0], signal.SIGSTOP)
        with pytest.raises(ImageRejected):
            decoder.decode(encoded(scene()), Treatment(pixel_spec()), LIMITS)
        assert decoder.decode(encoded(scene()), Treatment(pixel_spec()), LIMITS).tiles == 1
    finally:
        decoder.close()


def test_threads_get_each_their_own_picture(decoder: ImageDecoder) -> None:
    def fill(value: int) -> set[int]:
        image = Image.new("RGB", (40, 40), (value, value, value))
        return set(decoder.decode(encoded(image), Treatment(pixel_spec()), LIMITS).data)

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(fill, range(64))) == [{value} for value in range(64)]


def test_children_end_with_the_decoder() -> None:
    decoder = ImageDecoder(2)
    pids = decoder.pids
    decoder.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    decoder.close()
    with pytest.raises(ImageRejected):
        decoder.decode(encoded(scene()), Treatment(pixel_spec()), LIMITS)


def test_children_end_with_a_parent_that_was_killed() -> None:
    program = (
        "from lavatube.prompt.decoder import ImageDecoder; d = ImageDecoder(1); print(d.pids[0], flush=True); input()"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdin is not None
    assert parent.stdout is not None
    with parent.stdin, parent.stdout:
        child = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 10
    while _is_running(child):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except FileNotFoundError:
        return False


def test_a_frame_that_is_no_request_ends_the_child() -> None:
    with SandboxPool(CHILD, 1, SandboxLimits(1 << 30, 2.0, 15.0)) as pool:
        before = pool.pids
        with pytest.raises(SandboxError):
            pool.ask(b"garbage")
        assert pool.pids != before


def test_who_waits_too_long_is_told_so() -> None:
    pool = SandboxPool(CHILD, 1, SandboxLimits(1 << 30, 2.0, 0.8), max_wait_s=0.05)
    with pool:
        os.kill(pool.pids[0], signal.SIGSTOP)

        def hold() -> None:
            with pytest.raises(SandboxError):
                pool.ask(b"")

        holder = threading.Thread(target=hold)
        holder.start()
        time.sleep(0.2)
        with pytest.raises(SandboxBusy):
            pool.ask(b"")
        holder.join()
    assert issubclass(SandboxBusy, SandboxError)
    assert Overloaded.is_retryable


@needs_kit
def test_the_kit_of_hostile_pictures(decoder: ImageDecoder, tmp_path: Path) -> None:
    subprocess.run([sys.executable, KIT / "make_bad_images.py", tmp_path], check=True, stdout=subprocess.DEVNULL)
    digests: dict[str, set[bytes]] = {}
    for record in json.loads((tmp_path / "manifest.json").read_text()):
        wanted, outcome = record["expect"], "ok"
        try:
            decoded = decoder.decode(
                (tmp_path / record["name"]).read_bytes(), Treatment(pixel_spec("stretch", 48)), LIMITS
            )
        except ImageRejected as error:
            outcome = error.code
            assert outcome == wanted["code"] or wanted["note"], record["name"]
            continue
        assert wanted["status"] == 200 or wanted["note"], (record["name"], wanted)
        if "size" in (sees := record.get("sees", {})):
            assert [decoded.width, decoded.height] == sees["size"], record["name"]
        if "all" in sees:
            planes = [decoded.data[start : start + 48 * 48] for start in range(0, 3 * 48 * 48, 48 * 48)]
            for plane, value in zip(planes, sees["all"], strict=True):
                assert all(abs(byte - value) <= sees["tol"] for byte in plane), record["name"]
        if "pair" in record:
            names = digests.setdefault(record["pair"], set())
            digest = hashlib.sha256(decoded.data).digest()
            assert digest not in names, record["name"]
            names.add(digest)
