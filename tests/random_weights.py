"""Random tensors for a recipe, under the names that each layout's files have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.recipe import KeyStyle, Recipe

# Tower, projector, newline, decoder, head.
PREFIXES: Final[dict[KeyStyle, dict[str, str]]] = {
    "new": {
        "vision.": "model.vision_tower.",
        "projector.": "model.multi_modal_projector.",
        "newline": "model.image_newline",
        "language.": "model.language_model.",
        "head.": "lm_head.",
    },
    "middle": {
        "vision.": "model.vision_tower.vision_model.",
        "projector.": "model.multi_modal_projector.",
        "newline": "model.image_newline",
        "language.": "model.language_model.",
        "head.": "lm_head.",
    },
    "old": {
        "vision.": "vision_tower.vision_model.",
        "projector.": "multi_modal_projector.",
        "newline": "image_newline",
        "language.": "language_model.model.",
        "head.": "language_model.lm_head.",
    },
}


def random_tensors(recipe: Recipe, special_ids: list[int]) -> dict[str, Tensor]:
    """All tensors under the names of their file.

    The scale keeps activations near one and logits a few units apart, so that the greedy choice is far from a tie. Rows
    of the head for special and padding ids are faint: a random model then never ends or pads its answer by chance.
    """
    weights = _Weights(recipe.seed)
    _add_tower(weights, recipe)
    _add_projector(weights, recipe)
    _add_decoder(weights, recipe)
    tensors = weights.tensors
    if recipe.tied:
        tensors["head.weight"] = tensors["language.embed_tokens.weight"].clone()
    for name in ("language.embed_tokens.weight", "head.weight"):
        tensors[name][special_ids] *= 0.1
    if not (recipe.with_head if recipe.with_head is not None else not recipe.tied):
        del tensors["head.weight"]
    dtype = getattr(torch, recipe.dtype)
    return {
        _file_name(name, PREFIXES[recipe.key_style]): tensors.pop(name).to(dtype)  # large ones are not there twice
        for name in list(tensors)
    }


def write_tensors(folder: Path, tensors: dict[str, Tensor], *, num_shards: int = 1) -> None:
    """Write the weights as one file, or as shards with their index."""
    if num_shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map = {}
    for shard in range(num_shards):
        file_name = f"model-{shard + 1:05d}-of-{num_shards:05d}.safetensors"
        names = list(tensors)[shard::num_shards]
        save_file({name: tensors[name] for name in names}, folder / file_name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, file_name)
    total_size = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


def _file_name(name: str, prefixes: dict[str, str]) -> str:
    own = next(own for own in prefixes if name.startswith(own))
    return prefixes[own] + name.removeprefix(own)


class _Weights:
    """Tensors by name, drawn one after the other."""

    def __init__(self, seed: int) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._generator = torch.Generator().manual_seed(seed)

    def normal(self, name: str, *shape: int, std: float) -> None:
        self.tensors[name] = torch.randn(shape, generator=self._generator) * std

    def linear(self, name: str, inputs: int, outputs: int, *, bias: bool, gain: float = 1.0) -> None:
        self.normal(f"{name}.weight", outputs, inputs, std=gain * inputs**-0.5)
        if bias:
            self.normal(f"{name}.bias", outputs, std=0.1)

    def norm(self, name: str, size: int, *, bias: bool) -> None:
        self.tensors[f"{name}.weight"] = 1 + 0.1 * torch.randn(size, generator=self._generator)
        if bias:
            self.normal(f"{name}.bias", size, std=0.1)


def _add_tower(weights: _Weights, recipe: Recipe) -> None:
    width, ffn, patch = recipe.vision_hidden_size, recipe.vision_intermediate_size, recipe.patch_size
    embedding = "vision.embeddings.patch_embedding"
    weights.normal(f"{embedding}.weight", width, 3, patch, patch, std=(3 * patch**2) ** -0.5)
    weights.normal(
        "vision.embeddings.position_embedding.weight", recipe.num_patches + recipe.has_class_token, width, std=0.5
    )
    if recipe.has_class_token:
        weights.normal("vision.embeddings.class_embedding", width, std=1.0)
        weights.norm("vision.pre_layrnorm", width, bias=True)
    else:
        weights.normal(f"{embedding}.bias", width, std=0.1)
    for index in range(recipe.vision_layers):
        block = f"vision.encoder.layers.{index}."
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            weights.linear(f"{block}self_attn.{part}", width, width, bias=True)
        weights.norm(f"{block}layer_norm1", width, bias=True)
        weights.norm(f"{block}layer_norm2", width, bias=True)
        weights.linear(f"{block}mlp.fc1", width, ffn, bias=True)
        weights.linear(f"{block}mlp.fc2", ffn, width, bias=True)
    weights.norm("vision.post_layernorm", width, bias=True)


def _add_projector(weights: _Weights, recipe: Recipe) -> None:
    size = recipe.hidden_size
    if recipe.family == "vipllava":
        weights.norm("projector.projector_layernorm", recipe.feature_size, bias=True)
    weights.linear("projector.linear_1", recipe.feature_size, size, bias=recipe.projector_bias)
    weights.linear("projector.linear_2", size, size, bias=recipe.projector_bias)
    if recipe.is_anyres:
        weights.normal("newline", size, std=1.0)


def _add_decoder(weights: _Weights, recipe: Recipe) -> None:
    size, ffn, has_bias = recipe.hidden_size, recipe.intermediate_size, recipe.language == "qwen2"
    head_dim = recipe.head_dim or size // recipe.heads
    weights.normal("language.embed_tokens.weight", recipe.vocab_size, size, std=0.5)
    for index in range(recipe.layers):
        block = f"language.layers.{index}."
        weights.norm(f"{block}input_layernorm", size, bias=False)
        weights.linear(f"{block}self_attn.q_proj", size, recipe.heads * head_dim, bias=has_bias, gain=1.5)
        weights.linear(f"{block}self_attn.k_proj", size, recipe.kv_heads * head_dim, bias=has_bias, gain=1.5)
        weights.linear(f"{block}self_attn.v_proj", size, recipe.kv_heads * head_dim, bias=has_bias)
        weights.linear(f"{block}self_attn.o_proj", recipe.heads * head_dim, size, bias=False, gain=2.0)
        weights.norm(f"{block}post_attention_layernorm", size, bias=False)
        weights.linear(f"{block}mlp.gate_proj", size, ffn, bias=False)
        weights.linear(f"{block}mlp.up_proj", size, ffn, bias=False)
        weights.linear(f"{block}mlp.down_proj", ffn, size, bias=False, gain=2.0)
    weights.norm("language.norm", size, bias=False)
    weights.linear("head", size, recipe.vocab_size, bias=False, gain=3.0)
