"""The kit of hostile inputs, where it lies beside the repository: its cases as bytes, and the answer to each."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

KIT: Final = Path(__file__).parents[2] / "shared" / "bad_inputs"
needs_kit = pytest.mark.skipif(not KIT.is_dir(), reason="the kit of hostile inputs is not beside this repository")
Case = dict[str, Any]


def catalogue() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((KIT / "bad_inputs.json").read_text()) if KIT.is_dir() else {"cases": []}
    return found


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, KIT / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def make_images(folder: Path, *flags: str) -> Path:
    """`--big` adds one of 39 MB."""
    subprocess.run([sys.executable, KIT / "make_bad_images.py", folder, *flags], check=True, stdout=subprocess.DEVNULL)
    return folder


def context(renderer: ModuleType, images: Path, port: int, key: str, **more: object) -> Any:
    """What the cases are written with: our paths, this server's port and key."""
    values = renderer.Ctx(
        predict="/predictions",
        chat="/v1/chat/completions",
        status="/predictions",
        health="/health",
        key=key,
        self_port=str(port),
        key_minus_last=key[:-1],
        wrong_same_length="x" * len(key),
        prefix_k=key[:3] + "x" * (len(key) - 3),
        body_limit=32 << 20,
        **more,
    )
    manifest = images / "manifest.json"
    values.images = images
    values.manifest = {one["name"]: one for one in json.loads(manifest.read_text())} if manifest.exists() else {}
    return values


def allowed_answers(case: Case) -> list[tuple[int | str, str | None]]:
    expect = case["expect"]
    status = expect["v1_status"] if case["target"] == "chat" else expect["status"]
    return [(status, expect["code"]), *map(tuple, expect.get("also_ok", ()))]


def is_as_listed(case: Case, status: int | str, body: bytes) -> bool:
    """Whether an answer is one of those that the catalogue gives for a case."""
    return any(status == want and (code is None or code == code_of(body)) for want, code in allowed_answers(case))


def status_of(answer: bytes) -> int | str:
    found = re.match(rb"HTTP/1\.1 (\d+)", answer)
    return int(found[1]) if found else "closed"


def code_of(body: bytes) -> str | None:
    try:
        answer = json.loads(body)
    except ValueError:
        return None
    error = answer.get("error")
    return error["code"] if isinstance(error, dict) else answer.get("code")
