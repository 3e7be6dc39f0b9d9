"""Without the kernels, as after an installation without a compiler: all works, and one line says that it is slower."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch

import lavatube
from lavatube.checkpoint.read import read_spec
from lavatube.model.load import load_model
from tests.checkpoints import write_checkpoint
from tests.model.driver import Driver, Stream
from tests.model.kernels import kernels_of

ROOT = Path(__file__).parent.parent.parent
PROGRAM = """
import sys, logging, torch
from pathlib import Path
from lavatube.checkpoint.read import read_spec
from lavatube.model.load import load_model
from tests.model.driver import Driver, Stream

logging.basicConfig(format="%(message)s")
folder = Path(sys.argv[1])
spec = read_spec(folder)
model = load_model(spec, folder, torch.device("cpu"), torch.bfloat16, lambda done, total: None, "int8")
driver, stream = Driver(model, spec), Stream()
rows = model.embed_tokens(torch.arange(3, 40))
torch.save(torch.cat([driver.step([(stream, piece)])[0] for piece in rows.split([36, 1])]), sys.argv[2])
"""


def test_a_model_runs_without_them_nearly_the_same(tmp_path: Path) -> None:
    kernels_of(0)
    folder = write_checkpoint(tmp_path / "checkpoint", hidden_size=128)
    ignored = shutil.ignore_patterns("__pycache__", "tiny", "_native*")
    shutil.copytree(Path(lavatube.__file__).parent, tmp_path / "src" / "lavatube", ignore=ignored)
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, folder, tmp_path / "logits"],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{tmp_path / 'src'}:{ROOT}"},
        cwd=tmp_path,
    )
    assert ran.stderr.count("no kernels: the model runs on torch's own, slower") == 1
    spec = read_spec(folder)
    model = load_model(spec, folder, torch.device("cpu"), torch.bfloat16, lambda done, total: None, "int8")
    (ours,) = Driver(model, spec).step([(Stream(), model.embed_tokens(torch.arange(3, 40)))])
    theirs = torch.load(tmp_path / "logits")
    assert (ours - theirs).norm() < 0.05 * ours.norm()
