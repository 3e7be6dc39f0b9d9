"""A checkpoint of the original layout in, the same model as what was trained on a base alone: a projector, or a LoRA.

The base lies inside, with stale values for all that was trained.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from lavatube.weights.tensors import open_tensors
from tests.originals import Tensors, write_files

RANK, ALPHA = 4, 6
TRAINED = ("mm_projector", "image_newline")


def leave_projector(folder: Path, *, torch_files: bool = True) -> None:
    """Put the language model into `base`, and the rest into mm_projector.bin."""
    tensors = _take_weights(folder)
    projector = {name: value for name, value in tensors.items() if any(part in name for part in TRAINED)}
    base = {name: value for name, value in tensors.items() if name not in projector and "vision" not in name}
    _write_base(folder / "base", base, torch_files=torch_files)
    torch.save(projector, folder / "mm_projector.bin")


def leave_adapter(folder: Path, adapter: str = "adapter_model.bin", *, rslora: bool = False) -> None:
    """Take a random product of two matrices off some weights of the base: what merging adds again."""
    tensors = _take_weights(folder)
    scale = ALPHA / (RANK**0.5 if rslora else RANK)
    generator = torch.Generator().manual_seed(2)
    matrices: Tensors = {}
    for name in [name for name in tensors if name.endswith(("q_proj.weight", "down_proj.weight"))]:
        if "vision" in name:
            continue
        rows, cols = tensors[name].shape
        down, up = (_random(generator, RANK, cols), _random(generator, rows, RANK))
        wrapped = f"base_model.model.{name.removesuffix('.weight')}"
        matrices |= {f"{wrapped}.lora_A.weight": down, f"{wrapped}.lora_B.weight": up}
        tensors[name] = tensors[name] - scale * up @ down
    trained = {name: value for name, value in tensors.items() if any(part in name for part in TRAINED)}
    wrapped_values = {f"base_model.model.{name}": value for name, value in trained.items()}
    torch.save(wrapped_values, folder / "non_lora_trainables.bin")
    _write_base(folder / "base", tensors | {name: torch.zeros_like(value) for name, value in trained.items()})
    if adapter.endswith(".bin"):
        torch.save(matrices, folder / adapter)
    else:
        save_file(matrices, folder / adapter)
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "use_rslora": rslora, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "some/base"}))


def _take_weights(folder: Path) -> Tensors:
    opened = open_tensors(folder)
    tensors = {name: opened.tensor(name).clone() for name in opened.names}
    for path in [*folder.glob("model*.safetensors*"), *folder.glob("pytorch_model*.bin*")]:
        path.unlink()
    return tensors


def _write_base(folder: Path, tensors: Tensors, *, torch_files: bool = False) -> None:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    write_files(folder, tensors, torch_files=torch_files)


def _random(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator) / 8
