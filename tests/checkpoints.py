"""Tiny random LLaVA checkpoints in the llava-hf layout: what every test that needs a model loads.

Written from the layout alone, without `transformers`, so that a test pays neither its import nor its opinions; that
`transformers` loads the same folder and agrees is what `tests/parity` proves.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

LEADING_SPECIALS: Final = ("<unk>", "<s>", "</s>")
TRAILING_SPECIALS: Final = ("<pad>", "<image>")
CLIP_MEAN: Final = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD: Final = [0.26862954, 0.26130258, 0.27577711]
SENTENCES: Final = (
    "USER: What is in the picture? ASSISTANT: There is a red circle above a blue square.",
    "USER: How many stars are there? ASSISTANT: There are three yellow stars on the left.",
    "USER: Describe the picture. ASSISTANT: The picture shows a green triangle in the middle.",
)
CHAT_TEMPLATE: Final = (
    "{%- for message in messages -%}"
    "{%- if message['role'] != 'system' -%}{{ message['role'].upper() + ': ' }}{%- endif -%}"
    "{%- if message['content'] is string -%}{{ message['content'] + ' ' }}"
    "{%- else -%}"
    "{%- for part in message['content'] if part['type'] == 'image' -%}{{ '<image>\n' }}{%- endfor -%}"
    "{%- for part in message['content'] if part['type'] == 'text' -%}{{ part['text'] + ' ' }}{%- endfor -%}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'ASSISTANT:' }}{%- endif -%}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a test may choose; everything else follows from it.

    key_style: "new" and "old" are the two spellings of tensor names that llava-hf files have had.
    with_head: whether `lm_head` is in the file; by default where it is not tied.
    """

    seed: int = 0
    dtype: str = "float32"
    key_style: Literal["new", "old"] = "new"
    num_shards: int = 1
    pixel_mode: Literal["crop", "stretch", "pad"] = "crop"
    with_chat_template: bool = True

    image_size: int = 32
    patch_size: int = 8
    vision_hidden_size: int = 32
    vision_intermediate_size: int = 64
    vision_layers: int = 3
    vision_heads: int = 4
    vision_activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    select_layer: int = -2
    select_strategy: Literal["default", "full"] = "default"
    projector_bias: bool = True

    hidden_size: int = 64
    intermediate_size: int = 96
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    head_dim: int | None = None
    vocab_size: int = 320
    rope_theta: float = 10000.0
    max_positions: int = 1024
    tied: bool = False
    with_head: bool | None = None

    @property
    def num_image_tokens(self) -> int:
        return (self.image_size // self.patch_size) ** 2 + (self.select_strategy == "full")


def write_checkpoint(folder: Path, **overrides: object) -> Path:
    """Write a whole checkpoint folder and return it; `overrides` are fields of `Recipe`."""
    recipe = Recipe(**overrides)  # type: ignore[arg-type]
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(recipe.vocab_size - 16)
    tokenizer.save(str(folder / "tokenizer.json"))
    image_token_id = tokenizer.token_to_id("<image>")
    files: dict[str, object] = {
        "config.json": _config(recipe, image_token_id),
        "generation_config.json": {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": image_token_id - 1},
        "preprocessor_config.json": _preprocessor(recipe),
        "processor_config.json": {
            "processor_class": "LlavaProcessor",
            "image_token": "<image>",
            "patch_size": recipe.patch_size,
            "num_additional_image_tokens": 1,
            "vision_feature_select_strategy": recipe.select_strategy,
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "pad_token": "<pad>",
            "extra_special_tokens": {"image_token": "<image>"},
            "clean_up_tokenization_spaces": False,
            "model_max_length": recipe.max_positions,
            "processor_class": "LlavaProcessor",
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2), encoding="utf-8")
    if recipe.with_chat_template:
        (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    special_ids = [0, 1, 2, *range(image_token_id - 1, recipe.vocab_size)]
    write_tensors(folder, random_tensors(recipe, special_ids), num_shards=recipe.num_shards)
    return folder


def write_tensors(folder: Path, tensors: dict[str, torch.Tensor], *, num_shards: int = 1) -> None:
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


def random_tensors(recipe: Recipe, special_ids: list[int]) -> dict[str, torch.Tensor]:
    """All tensors under the names of their file.

    The scale keeps activations near one and logits a few units apart, so that the greedy choice is far from a tie. Rows
    of the head for special and padding ids are faint: a random model then never ends or pads its answer by chance.
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    tower, projector, decoder, head = {
        "new": ("model.vision_tower.", "model.multi_modal_projector.", "model.language_model.", "lm_head."),
        "old": (
            "vision_tower.vision_model.",
            "multi_modal_projector.",
            "language_model.model.",
            "language_model.lm_head.",
        ),
    }[recipe.key_style]
    tensors: dict[str, torch.Tensor] = {}

    def normal(name: str, *shape: int, std: float) -> None:
        tensors[name] = torch.randn(shape, generator=generator) * std

    def linear(name: str, inputs: int, outputs: int, *, bias: bool, gain: float = 1.0) -> None:
        normal(f"{name}.weight", outputs, inputs, std=gain * inputs**-0.5)
        if bias:
            normal(f"{name}.bias", outputs, std=0.1)

    def norm(name: str, size: int, *, bias: bool) -> None:
        tensors[f"{name}.weight"] = 1 + 0.1 * torch.randn(size, generator=generator)
        if bias:
            normal(f"{name}.bias", size, std=0.1)

    width, ffn = recipe.vision_hidden_size, recipe.vision_intermediate_size
    num_patches = (recipe.image_size // recipe.patch_size) ** 2
    normal(f"{tower}embeddings.class_embedding", width, std=1.0)
    normal(
        f"{tower}embeddings.patch_embedding.weight",
        *(width, 3, recipe.patch_size, recipe.patch_size),
        std=(3 * recipe.patch_size**2) ** -0.5,
    )
    normal(f"{tower}embeddings.position_embedding.weight", num_patches + 1, width, std=0.5)
    norm(f"{tower}pre_layrnorm", width, bias=True)
    for index in range(recipe.vision_layers):
        block = f"{tower}encoder.layers.{index}."
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            linear(f"{block}self_attn.{part}", width, width, bias=True)
        norm(f"{block}layer_norm1", width, bias=True)
        norm(f"{block}layer_norm2", width, bias=True)
        linear(f"{block}mlp.fc1", width, ffn, bias=True)
        linear(f"{block}mlp.fc2", ffn, width, bias=True)
    norm(f"{tower}post_layernorm", width, bias=True)

    size, ffn = recipe.hidden_size, recipe.intermediate_size
    head_dim = recipe.head_dim or size // recipe.heads
    linear(f"{projector}linear_1", width, size, bias=recipe.projector_bias)
    linear(f"{projector}linear_2", size, size, bias=recipe.projector_bias)
    normal(f"{decoder}embed_tokens.weight", recipe.vocab_size, size, std=0.5)
    for index in range(recipe.layers):
        block = f"{decoder}layers.{index}."
        norm(f"{block}input_layernorm", size, bias=False)
        linear(f"{block}self_attn.q_proj", size, recipe.heads * head_dim, bias=False, gain=1.5)
        linear(f"{block}self_attn.k_proj", size, recipe.kv_heads * head_dim, bias=False, gain=1.5)
        linear(f"{block}self_attn.v_proj", size, recipe.kv_heads * head_dim, bias=False)
        linear(f"{block}self_attn.o_proj", recipe.heads * head_dim, size, bias=False, gain=2.0)
        norm(f"{block}post_attention_layernorm", size, bias=False)
        linear(f"{block}mlp.gate_proj", size, ffn, bias=False)
        linear(f"{block}mlp.up_proj", size, ffn, bias=False)
        linear(f"{block}mlp.down_proj", ffn, size, bias=False, gain=2.0)
    norm(f"{decoder}norm", size, bias=False)
    linear(f"{head}"[:-1], size, recipe.vocab_size, bias=False, gain=3.0)

    if recipe.tied:
        tensors[f"{head}weight"] = tensors[f"{decoder}embed_tokens.weight"].clone()
    for name in (f"{decoder}embed_tokens.weight", f"{head}weight"):
        tensors[name][special_ids] *= 0.1
    if not (recipe.with_head if recipe.with_head is not None else not recipe.tied):
        del tensors[f"{head}weight"]
    return {name: tensor.to(getattr(torch, recipe.dtype)).contiguous() for name, tensor in tensors.items()}


def _config(recipe: Recipe, image_token_id: int) -> dict[str, object]:
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "dtype": recipe.dtype,
        "image_token_index": image_token_id,
        "image_seq_length": recipe.num_image_tokens,
        "projector_hidden_act": "gelu",
        "multimodal_projector_bias": recipe.projector_bias,
        "vision_feature_layer": recipe.select_layer,
        "vision_feature_select_strategy": recipe.select_strategy,
        "tie_word_embeddings": recipe.tied,
        "vision_config": {
            "model_type": "clip_vision_model",
            "image_size": recipe.image_size,
            "patch_size": recipe.patch_size,
            "hidden_size": recipe.vision_hidden_size,
            "intermediate_size": recipe.vision_intermediate_size,
            "num_hidden_layers": recipe.vision_layers,
            "num_attention_heads": recipe.vision_heads,
            "hidden_act": recipe.vision_activation,
            "layer_norm_eps": 1e-5,
            "projection_dim": recipe.vision_hidden_size,
        },
        "text_config": {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": recipe.hidden_size,
            "intermediate_size": recipe.intermediate_size,
            "num_hidden_layers": recipe.layers,
            "num_attention_heads": recipe.heads,
            "num_key_value_heads": recipe.kv_heads,
            "head_dim": recipe.head_dim or recipe.hidden_size // recipe.heads,
            "hidden_act": "silu",
            "vocab_size": recipe.vocab_size,
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": recipe.max_positions,
            "rope_parameters": {"rope_type": "default", "rope_theta": recipe.rope_theta},
            "tie_word_embeddings": recipe.tied,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": image_token_id - 1,
        },
    }


def _preprocessor(recipe: Recipe) -> dict[str, object]:
    square = {"height": recipe.image_size, "width": recipe.image_size}
    common = {
        "processor_class": "LlavaProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
        "crop_size": square,
    }
    match recipe.pixel_mode:
        case "crop":
            own = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": recipe.image_size}}
            return common | own | {"do_center_crop": True}
        case "stretch":
            return common | {"image_processor_type": "CLIPImageProcessor", "size": square, "do_center_crop": False}
        case "pad":
            own = {"image_processor_type": "LlavaImageProcessor", "size": {"shortest_edge": recipe.image_size}}
            return common | own | {"do_center_crop": True, "do_pad": True}


def _tokenizer(num_ids: int) -> Tokenizer:
    """Byte-level BPE of exactly `num_ids` ids with Llama's special tokens in Llama's places, and <s> in front."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=num_ids - len(TRAILING_SPECIALS),
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in LEADING_SPECIALS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in TRAILING_SPECIALS])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return tokenizer
