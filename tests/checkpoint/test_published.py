"""The shapes in which each family is published: what is not in a file is the default of its class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from lavatube.checkpoint.read import read_spec
from lavatube.geometry import plan_image
from lavatube.spec import ModelSpec

CLIP: Final = {
    "hidden_size": 1024,
    "image_size": 336,
    "intermediate_size": 4096,
    "model_type": "clip_vision_model",
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "patch_size": 14,
    "projection_dim": 768,
}
SIGLIP: Final = {
    "hidden_size": 1152,
    "image_size": 384,
    "intermediate_size": 4304,
    "model_type": "siglip_vision_model",
    "num_attention_heads": 16,
    "num_hidden_layers": 26,
    "patch_size": 14,
    "vision_use_head": False,
}
CROP: Final = {
    "crop_size": {"height": 336, "width": 336},
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": 336},
}
NEXT: Final = CROP | {"image_processor_type": "LlavaNextImageProcessor"}
HALF: Final = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
QWEN_0_5B: Final = {
    "model_type": "qwen2",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "rope_theta": 1000000.0,
    "vocab_size": 152000,
    "tie_word_embeddings": True,
}


def read(folder: Path, config: dict[str, Any], preprocessor: dict[str, Any], **files: dict[str, Any]) -> ModelSpec:
    contents = {"config": config, "preprocessor_config": preprocessor, **files}
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return read_spec(folder)


def tokens(spec: ModelSpec, width: int, height: int) -> int:
    return plan_image(spec, width, height).num_tokens


def test_1_6_on_vicuna(tmp_path: Path) -> None:
    text = {"model_type": "llama", "max_position_embeddings": 4096, "vocab_size": 32064}
    spec = read(tmp_path, {"model_type": "llava_next", "vision_config": CLIP, "text_config": text}, NEXT)
    assert (spec.family, spec.merge, spec.has_newline, spec.image_token_id) == ("llava_next", "unpad", True, 32000)
    assert spec.pixels.mode == "anyres"
    # The list is read as (height, width), the original's as (width, height): small images are cut the other way.
    assert spec.pixels.grids == ((672, 336), (336, 672), (672, 672), (336, 1008), (1008, 336))
    assert (spec.pixels.rounding, spec.fidelity) == ("round", "hf")
    assert [tokens(spec, *size) for size in ((640, 480), (320, 240), (672, 672))] == [2340, 1368, 2928]
    assert spec.builtin_template == "vicuna_hub"


@pytest.mark.parametrize(("window", "expected"), [({"sliding_window": None}, None), ({}, 4096)])
def test_1_6_on_mistral(tmp_path: Path, window: dict[str, Any], expected: int | None) -> None:
    text = {"model_type": "mistral", "vocab_size": 32064, "rope_theta": 1000000.0, "num_key_value_heads": 8, **window}
    text |= {"intermediate_size": 14336, "max_position_embeddings": 32768}
    spec = read(tmp_path, {"model_type": "llava_next", "vision_config": CLIP, "text_config": text}, NEXT)
    language = spec.language
    assert (language.kind, language.sliding_window, language.has_qkv_bias) == ("mistral", expected, False)
    assert (language.num_kv_heads, language.rope_theta, language.head_dim) == (8, 1000000.0, 128)
    assert spec.builtin_template == "mistral_instruct"


def test_1_6_on_yi(tmp_path: Path) -> None:
    text = {"model_type": "llama", "hidden_size": 7168, "intermediate_size": 20480, "num_attention_heads": 56}
    text |= {"num_key_value_heads": 8, "num_hidden_layers": 60, "vocab_size": 64064, "rope_theta": 5000000.0}
    config = {"model_type": "llava_next", "vision_config": CLIP, "text_config": text, "image_token_index": 64000}
    tokenizer = {"added_tokens_decoder": {"7": {"content": "<|im_end|>"}, "64000": {"content": "<image>"}}}
    spec = read(tmp_path, config, NEXT, tokenizer_config=tokenizer, generation_config={"eos_token_id": 7})
    assert (spec.language.head_dim, spec.image_token_id, spec.stop_token_ids) == (128, 64000, (7,))
    assert spec.builtin_template == "chatml_direct"


def test_1_6_on_llama_3(tmp_path: Path) -> None:
    text = {"model_type": "llama", "vocab_size": 128320, "num_key_value_heads": 8, "intermediate_size": 14336}
    text |= {"max_position_embeddings": 8192, "rope_theta": 500000.0, "rms_norm_eps": 1e-5}
    config = {"model_type": "llava_next", "vision_config": CLIP, "text_config": text, "image_token_index": 128256}
    tokenizer = {"added_tokens_decoder": {"128009": {"content": "<|eot_id|>"}}}
    generation = {"eos_token_id": [128001, 128009]}
    spec = read(tmp_path, config, NEXT, tokenizer_config=tokenizer, generation_config=generation)
    assert (spec.builtin_template, spec.stop_token_ids) == ("llava_llama_3", (128001, 128009))


def test_interleave(tmp_path: Path) -> None:
    config = {
        "model_type": "llava",
        "vision_config": SIGLIP,
        "text_config": QWEN_0_5B,
        "image_token_index": 151646,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
    }
    preprocessor = {"image_processor_type": "SiglipImageProcessor", "size": {"height": 384, "width": 384}}
    spec = read(tmp_path, config, preprocessor)
    assert (spec.vision.kind, spec.vision.num_layers_run, spec.pixels.mode) == ("siglip", 26, "stretch")
    assert spec.pixels.mean == spec.pixels.std == (0.5, 0.5, 0.5), "the default of its processor, not CLIP's"
    assert [tokens(spec, *size) for size in ((336, 336), (4000, 30))] == [729, 729]
    assert spec.language.has_qkv_bias
    assert spec.language.has_tied_embeddings, "said in text_config alone"


def test_onevision(tmp_path: Path) -> None:
    config = {"model_type": "llava_onevision", "vision_config": SIGLIP, "text_config": QWEN_0_5B}
    preprocessor = {"image_processor_type": "LlavaOnevisionImageProcessor", **HALF}
    spec = read(tmp_path, config, preprocessor)
    assert (spec.image_token_id, spec.pixels.max_tiles, spec.pixels.several) == (151646, 9, "pad")
    assert len(spec.pixels.grids) == 36
    sizes = ((300, 300), (500, 375), (640, 480), (1024, 768), (1100, 1322))
    assert [tokens(spec, *size) for size in sizes] == [1485, 1728, 2929, 4725, 8765]
    assert plan_image(spec, 640, 480, num_images=2).num_tokens == 730
    assert spec.language.sliding_window is None, "Qwen2's window is off unless it says so"


def test_vip(tmp_path: Path) -> None:
    text = {"model_type": "llama", "max_position_embeddings": 4096, "vocab_size": 32064}
    layers = [-2, -5, -8, -11, 6]
    config = {"model_type": "vipllava", "vision_config": CLIP, "text_config": text, "vision_feature_layers": layers}
    spec = read(tmp_path, config, CROP)
    assert (spec.vision.select_states, spec.vision.feature_size) == ((23, 20, 17, 14, 6), 5120)
    assert (spec.vision.num_layers_run, tokens(spec, 640, 480)) == (23, 576)
    assert (spec.projector.has_norm, spec.projector.has_bias, spec.projector.norm_eps) == (True, True, 1e-5)
    assert (spec.builtin_template, spec.stop_strings) == ("llava_v0", ("###",))
    default = {"model_type": "vipllava", "vision_config": CLIP, "text_config": text}
    assert read(tmp_path, default, CROP).vision == spec.vision
    templated = read(tmp_path, default, CROP, chat_template={"chat_template": "###Human: {{ x }}###Assistant:"})
    assert templated.stop_strings == ("###",)


def test_bakllava(tmp_path: Path) -> None:
    text = {"model_type": "mistral", "vocab_size": 32064, "sliding_window": 4096, "max_position_embeddings": 32768}
    spec = read(tmp_path, {"model_type": "llava", "vision_config": CLIP, "text_config": text}, CROP)
    assert (spec.language.kind, spec.language.intermediate_size, spec.language.num_kv_heads) == ("mistral", 14336, 8)
    assert (spec.language.sliding_window, spec.builtin_template) == (4096, "vicuna_hub")
