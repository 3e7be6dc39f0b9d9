"""What a start does not pay for: modules that take long to import and that nothing of it needs."""

from __future__ import annotations

import subprocess
import sys

import pytest

LOAD_TINY = """
from pathlib import Path
import lavatube
import torch
from lavatube.checkpoint.read import read_spec
from lavatube.model.load import load_model
folder = Path(lavatube.__file__).with_name("tiny")
load_model(read_spec(folder), folder, torch.device("cpu"), torch.float32, lambda done, of: None, QUANTIZE)
"""
COMPILERS = ["torch._dynamo", "torch._inductor", "sympy", "triton"]
ANSWERING = ["sqlalchemy", "pydantic", "starlette", "uvicorn", "httpx"]


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        (LOAD_TINY.replace("QUANTIZE", "'none'"), COMPILERS),
        (LOAD_TINY.replace("QUANTIZE", "'int4'"), COMPILERS),
        ("import lavatube.boot", [*COMPILERS, *ANSWERING, "torch"]),
        ("import lavatube.terminal", [*COMPILERS, *ANSWERING, "torch"]),
        ("import lavatube.front", ["torch", "sqlalchemy.dialects.postgresql"]),
    ],
    ids=["a model in floats", "a model in int4", "the first second of a server", "the bar of a pull", "what answers"],
)
def test_is_not_imported(code: str, unwanted: list[str]) -> None:
    asked = f"{code}\nimport sys\nprint(*(name for name in sys.argv[1:] if name in sys.modules))"
    ran = subprocess.run([sys.executable, "-P", "-c", asked, *unwanted], check=True, stdout=subprocess.PIPE, text=True)
    assert ran.stdout.split() == []
