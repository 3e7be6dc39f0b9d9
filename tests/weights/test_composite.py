"""Parts laid over one another under the names of a complete checkpoint, and what does not fit is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lavatube.errors import UnsupportedCheckpoint
from lavatube.weights.composite import open_checkpoint

WEIGHT = "model.layers.0.self_attn.q_proj.weight"
ADAPTED = "base_model.model.model.layers.0.self_attn.q_proj"
LORA: dict[str, object] = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": "some/base"}

Tensors = dict[str, Tensor]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An adapter on a base inside its folder, without vision."""
    (tmp_path / "config.json").write_text(json.dumps({"mm_vision_tower": "a/b", "unfreeze_mm_vision_tower": True}))
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    save_file({WEIGHT: torch.ones(3, 5), "lm_head.weight": torch.ones(4, 3)}, tmp_path / "base" / "model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(LORA))
    write_adapter(tmp_path)
    return tmp_path


def write_adapter(folder: Path, **changes: Tensor | None) -> None:
    """`changes` are tensors by the end of their name; None leaves one out."""
    matrices: dict[str, Tensor | None] = {"lora_A.weight": torch.ones(2, 5), "lora_B.weight": torch.ones(3, 2)}
    matrices |= changes
    tensors = {f"{ADAPTED}.{name}": value for name, value in matrices.items() if value is not None}
    torch.save(tensors, folder / "adapter_model.bin")


def test_an_adapter_is_added_when_a_tensor_is_read(folder: Path) -> None:
    tensors = open_checkpoint(folder)
    assert torch.equal(tensors.tensor(WEIGHT), torch.full((3, 5), 1 + 4 / 2 * 2.0))
    assert torch.equal(tensors.tensor("lm_head.weight"), torch.ones(4, 3))
    assert (tensors.shape(WEIGHT), tensors.dtype(WEIGHT)) == ((3, 5), torch.float32)
    assert set(tensors.names) == {WEIGHT, "lm_head.weight"}


@pytest.mark.parametrize(
    "names",
    [
        ["base_model.model.model.mm_projector.0.weight", "base_model.model.lm_head.weight"],
        ["model.mm_projector.0.weight", "lm_head.weight"],
        ["model.model.mm_projector.0.weight", "model.lm_head.weight"],
    ],
)
def test_what_was_trained_beside_the_adapter_replaces_the_base(folder: Path, names: list[str]) -> None:
    torch.save({name: torch.full((2, 2), 7.0) for name in names}, folder / "non_lora_trainables.bin")
    tensors = open_checkpoint(folder)
    assert set(tensors.names) == {WEIGHT, "lm_head.weight", "model.mm_projector.0.weight"}
    assert tensors.tensor("lm_head.weight")[0, 0] == 7


@pytest.mark.parametrize("prefix", ["", "model.", "base_model.model.model."])
def test_a_projector_by_any_prefix(folder: Path, prefix: str) -> None:
    (folder / "adapter_model.bin").unlink()
    (folder / "adapter_config.json").unlink()
    names = ("mm_projector.0.weight", "image_newline")
    torch.save({prefix + name: torch.ones(2) for name in names}, folder / "mm_projector.bin")
    assert {f"model.{name}" for name in names} < set(open_checkpoint(folder).names)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lora_A.weight": torch.ones(2, 6)}, r"do not fit \[3, 5\], the shape"),
        ({"lora_B.weight": torch.ones(4, 2)}, r"do not fit \[3, 5\], the shape"),
        ({"lora_B.weight": torch.ones(3, 1)}, r"do not fit \[3, 5\], the shape"),
        ({"lora_A.weight": torch.ones(5)}, "one matrix"),
        ({"lora_A.weight": None}, "one matrix"),
        ({"lora_magnitude_vector": torch.ones(3)}, "no matrix of a plain LoRA"),
    ],
)
def test_matrices_that_do_not_fit(folder: Path, changes: dict[str, Tensor | None], said: str) -> None:
    write_adapter(folder, **changes)
    with pytest.raises(UnsupportedCheckpoint, match=said):
        open_checkpoint(folder)


def test_an_adapter_for_a_weight_that_the_base_has_not(folder: Path) -> None:
    names = [f"base_model.model.model.layers.9.mlp.up_proj.lora_{side}.weight" for side in "AB"]
    torch.save({name: torch.ones(2, 2) for name in names}, folder / "adapter_model.bin")
    with pytest.raises(UnsupportedCheckpoint, match=r"no tensor model\.layers\.9\.mlp\.up_proj\.weight"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"peft_type": "IA3"},
        {"use_dora": True},
        {"fan_in_fan_out": True},
        {"rank_pattern": {"q_proj": 4}},
        {"modules_to_save": ["lm_head"]},
        {"r": 0},
        {"r": 10**9},
        {"lora_alpha": float("inf")},
    ],
    ids=str,
)
def test_adapters_of_other_kinds_name_their_key(folder: Path, change: dict[str, object]) -> None:
    (folder / "adapter_config.json").write_text(json.dumps(LORA | change))
    with pytest.raises(UnsupportedCheckpoint, match=f"adapter_config.json: {next(iter(change))}"):
        open_checkpoint(folder)


def test_a_projector_file_with_embeddings_is_refused(folder: Path) -> None:
    torch.save({"model.embed_tokens.weight": torch.ones(2, 3)}, folder / "mm_projector.bin")
    with pytest.raises(
        UnsupportedCheckpoint, match=r"has model\.embed_tokens\.weight, which is no part of a projector"
    ):
        open_checkpoint(folder)


def test_a_base_that_is_not_there(folder: Path) -> None:
    (folder / "base" / "config.json").unlink()
    with pytest.raises(UnsupportedCheckpoint, match="needs some/base, which is not here"):
        open_checkpoint(folder)


def test_a_base_without_weights(folder: Path) -> None:
    (folder / "base" / "model.safetensors").unlink()
    with pytest.raises(UnsupportedCheckpoint, match="base has no weights"):
        open_checkpoint(folder)


def drop_text_half(tensors: Tensors) -> None:
    tensors |= {"text_model.x": torch.ones(1), "logit_scale": torch.ones(()), "visual_projection.weight": torch.ones(1)}


@pytest.mark.parametrize("change", [drop_text_half, lambda tensors: None])
def test_a_tower_of_its_own_repository(tmp_path: Path, change: Callable[[Tensors], None]) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"mm_vision_tower": "a/b"}))
    (tmp_path / "vision_tower").mkdir()
    (tmp_path / "vision_tower" / "config.json").write_text("{}")
    inner = "model.vision_tower.vision_tower.vision_model.embeddings.class_embedding"
    save_file({inner: torch.zeros(3), "model.norm.weight": torch.ones(2)}, tmp_path / "model.safetensors")
    tower = {"vision_model.embeddings.class_embedding": torch.ones(3)}
    change(tower)
    torch.save(tower, tmp_path / "vision_tower" / "pytorch_model.bin")
    tensors = open_checkpoint(tmp_path)
    assert set(tensors.names) == {inner, "model.norm.weight"}
    assert torch.equal(tensors.tensor(inner), torch.ones(3))
