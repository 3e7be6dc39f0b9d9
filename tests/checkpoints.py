"""Tiny random LLaVA checkpoints in the llava-hf layout: what every test that needs a model loads.

Written from the layout alone, without `transformers`, so that a test pays neither its import nor its opinions; that
`transformers` loads the same folder and agrees is what `tests/parity` proves.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from tests.random_weights import random_tensors, write_tensors
from tests.recipe import Family, Recipe

LEADING_SPECIALS: Final = ("<unk>", "<s>", "</s>")
TRAILING_SPECIALS: Final = ("<pad>", "<image>", "<video>")
CLIP_MEAN: Final = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD: Final = [0.26862954, 0.26130258, 0.27577711]
SIGLIP_MEAN: Final = [0.5, 0.5, 0.5]
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
_ARCHITECTURES: Final[dict[Family, str]] = {
    "llava": "LlavaForConditionalGeneration",
    "llava_next": "LlavaNextForConditionalGeneration",
    "llava_next_video": "LlavaNextVideoForConditionalGeneration",
    "llava_onevision": "LlavaOnevisionForConditionalGeneration",
    "vipllava": "VipLlavaForConditionalGeneration",
}
_PROCESSORS: Final[dict[Family, str]] = {
    "llava": "LlavaProcessor",
    "llava_next": "LlavaNextProcessor",
    "llava_next_video": "LlavaNextVideoProcessor",
    "llava_onevision": "LlavaOnevisionProcessor",
    "vipllava": "LlavaProcessor",
}


def write_checkpoint(folder: Path, **overrides: object) -> Path:
    """Write a whole checkpoint folder and return it; `overrides` are fields of `Recipe`."""
    recipe = Recipe(**overrides)  # type: ignore[arg-type]
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(recipe.vocab_size - 16, recipe.special_tokens, recipe.sentences or SENTENCES)
    tokenizer.save(str(folder / "tokenizer.json"))
    image_token_id = tokenizer.token_to_id("<image>")
    files: dict[str, object] = {
        "config.json": _config(recipe, image_token_id),
        "generation_config.json": {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": image_token_id - 1},
        "preprocessor_config.json": _preprocessor(recipe),
        "processor_config.json": _processor(recipe),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "pad_token": "<pad>",
            "extra_special_tokens": {"image_token": "<image>"},
            "clean_up_tokenization_spaces": False,
            "model_max_length": recipe.max_positions,
            "processor_class": _PROCESSORS[recipe.family],
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2), encoding="utf-8")
    if recipe.with_chat_template:
        (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    special_ids = [0, 1, 2, *range(image_token_id - 1, recipe.vocab_size)]
    write_tensors(folder, random_tensors(recipe, special_ids), num_shards=recipe.num_shards)
    return folder


def _config(recipe: Recipe, image_token_id: int) -> dict[str, object]:
    selected = recipe.select_layer
    return {
        "architectures": [_ARCHITECTURES[recipe.family]],
        "model_type": recipe.family,
        "dtype": recipe.dtype,
        "image_token_index": image_token_id,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": list(selected) if isinstance(selected, tuple) else selected,
        "tie_word_embeddings": recipe.tied,
        "vision_config": _vision_config(recipe),
        "text_config": _text_config(recipe, image_token_id),
    } | _family_config(recipe, image_token_id)


def _family_config(recipe: Recipe, image_token_id: int) -> dict[str, object]:
    """What stands in one family's config alone."""
    if recipe.family == "vipllava":
        return {"projector_layernorm_eps": 1e-5, "image_seq_length": recipe.num_image_tokens}
    common = {
        "multimodal_projector_bias": recipe.projector_bias,
        "vision_feature_select_strategy": recipe.select_strategy,
    }
    match recipe.family:
        case "llava":
            return common | {"image_seq_length": recipe.num_image_tokens}
        case "llava_next":
            return common | {"image_seq_length": recipe.num_image_tokens, "image_grid_pinpoints": recipe.grid_sizes}
        case "llava_next_video":
            return common | {"image_grid_pinpoints": recipe.grid_sizes, "video_token_index": image_token_id + 1}
        case _:
            return common | {
                "image_grid_pinpoints": recipe.grid_sizes,
                "vision_aspect_ratio": f"anyres_max_{recipe.max_tiles}",
                "video_token_index": image_token_id + 1,
            }


def _vision_config(recipe: Recipe) -> dict[str, object]:
    common = {
        "image_size": recipe.image_size,
        "patch_size": recipe.patch_size,
        "hidden_size": recipe.vision_hidden_size,
        "intermediate_size": recipe.vision_intermediate_size,
        "num_hidden_layers": recipe.vision_layers,
        "num_attention_heads": recipe.vision_heads,
        "hidden_act": recipe.activation,
    }
    if recipe.tower == "siglip":
        return common | {"model_type": "siglip_vision_model", "layer_norm_eps": 1e-6, "vision_use_head": False}
    return common | {
        "model_type": "clip_vision_model",
        "layer_norm_eps": 1e-5,
        "projection_dim": recipe.vision_hidden_size,
    }


def _text_config(recipe: Recipe, image_token_id: int) -> dict[str, object]:
    common = {
        "model_type": recipe.language,
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
    }
    match recipe.language:
        case "mistral":
            return common | {"sliding_window": recipe.sliding_window}
        case "qwen2":
            window = {"sliding_window": recipe.sliding_window, "max_window_layers": 0}
            return common | window | {"use_sliding_window": recipe.sliding_window is not None}
        case _:
            return common


def _preprocessor(recipe: Recipe) -> dict[str, object]:
    square = {"height": recipe.image_size, "width": recipe.image_size}
    is_clip = recipe.tower == "clip"
    common: dict[str, object] = {
        "do_convert_rgb": True,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "image_mean": CLIP_MEAN if is_clip else SIGLIP_MEAN,
        "image_std": CLIP_STD if is_clip else SIGLIP_MEAN,
    }
    if recipe.family == "llava_onevision":
        own = {"image_processor_type": "LlavaOnevisionImageProcessor", "size": square}
        return common | own | {"image_grid_pinpoints": recipe.grid_sizes}
    if recipe.tower == "siglip" and recipe.family != "llava_next":
        return common | {"image_processor_type": "SiglipImageProcessor", "size": square}
    common |= {"crop_size": square}
    if recipe.is_anyres:
        own = {"image_processor_type": "LlavaNextImageProcessor", "size": {"shortest_edge": recipe.image_size}}
        return common | own | {"do_center_crop": True, "image_grid_pinpoints": recipe.grid_sizes}
    match recipe.pixel_mode:
        case "crop":
            own = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": recipe.image_size}}
            return common | own | {"do_center_crop": True}
        case "stretch":
            return common | {"image_processor_type": "CLIPImageProcessor", "size": square, "do_center_crop": False}
        case "pad":
            own = {"image_processor_type": "LlavaImageProcessor", "size": {"shortest_edge": recipe.image_size}}
            return common | own | {"do_center_crop": True, "do_pad": True}


def _processor(recipe: Recipe) -> dict[str, object]:
    common: dict[str, object] = {
        "processor_class": _PROCESSORS[recipe.family],
        "image_token": "<image>",
        "vision_feature_select_strategy": recipe.select_strategy,
    }
    if recipe.family == "llava_onevision":
        own = {"num_image_tokens": recipe.num_image_tokens, "vision_aspect_ratio": f"anyres_max_{recipe.max_tiles}"}
        return common | own | {"video_token": "<video>"}
    return common | {
        "patch_size": recipe.patch_size,
        "num_additional_image_tokens": int(recipe.has_class_token),
    }


def _tokenizer(num_ids: int, more_specials: tuple[str, ...], sentences: tuple[str, ...]) -> Tokenizer:
    """Byte-level BPE of exactly `num_ids` ids with Llama's special tokens in Llama's places, and <s> in front."""
    trailing = (*TRAILING_SPECIALS, *more_specials)
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=num_ids - len(trailing),
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in LEADING_SPECIALS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in trailing])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return tokenizer
