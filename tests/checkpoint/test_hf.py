"""What read_spec decides, from which file, and everything that it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lavatube.checkpoint.read import read_spec
from lavatube.errors import UnsupportedCheckpoint
from lavatube.geometry import plan_image
from lavatube.spec import ModelSpec
from tests.checkpoints import CHAT_TEMPLATE, write_checkpoint

LLAVA_1_5_7B: dict[str, dict[str, Any]] = {
    # As published: what is not there is the default of its class.
    "config.json": {
        "architectures": ["LlavaForConditionalGeneration"],
        "image_token_index": 32000,
        "model_type": "llava",
        "pad_token_id": 32001,
        "projector_hidden_act": "gelu",
        "text_config": {
            "max_position_embeddings": 4096,
            "model_type": "llama",
            "rms_norm_eps": 1e-05,
            "torch_dtype": "float16",
            "vocab_size": 32064,
        },
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "vision_config": {
            "hidden_size": 1024,
            "image_size": 336,
            "intermediate_size": 4096,
            "model_type": "clip_vision_model",
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "patch_size": 14,
            "projection_dim": 768,
            "vocab_size": 32000,
        },
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
    },
    "preprocessor_config.json": {
        "crop_size": {"height": 336, "width": 336},
        "do_center_crop": True,
        "image_processor_type": "CLIPImageProcessor",
        "rescale_factor": 0.00392156862745098,
        "size": {"shortest_edge": 336},
    },
}


def write(folder: Path, files: dict[str, dict[str, Any]]) -> Path:
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder


def edit(folder: Path, file: str, path: str, value: object) -> None:
    """Set the key at the dotted `path`; the value ... takes it away."""
    content = json.loads((folder / file).read_text(encoding="utf-8"))
    *parents, key = path.split(".")
    section = content
    for parent in parents:
        section = section[parent]
    if value is ...:
        del section[key]
    else:
        section[key] = value
    (folder / file).write_text(json.dumps(content), encoding="utf-8")


def decision(spec: ModelSpec, subject: str) -> tuple[str, str]:
    return next((made.choice, made.reason) for made in spec.decisions if made.subject == subject)


def test_the_published_llava_1_5_is_read_with_its_defaults(tmp_path: Path) -> None:
    spec = read_spec(write(tmp_path, LLAVA_1_5_7B))
    language, vision = spec.language, spec.vision
    assert (language.hidden_size, language.num_layers, language.num_heads, language.num_kv_heads) == (4096, 32, 32, 32)
    assert (language.head_dim, language.intermediate_size, language.rope_theta) == (128, 11008, 10000.0)
    assert (vision.num_layers_run, vision.num_features, vision.activation) == (23, 576, "quick_gelu")
    assert (spec.pixels.mode, spec.pixels.size, spec.pixels.resize) == ("crop", 336, 336)
    assert spec.dtype == "float16"
    assert spec.stop_token_ids == (2,)
    assert plan_image(spec, 640, 480).num_tokens == 576
    vicuna = 6_738_415_616 + 2 * 64 * 4096  # embeddings and head are padded from 32000 to 32064 rows
    clip = (
        1024 * (3 * 14**2 + 577 + 1 + 2) + 23 * 12_596_224
    )  # patches, places, class token, first norm; 23 of 24 blocks
    assert spec.num_parameters == vicuna + clip + (1024 + 1 + 4096 + 1) * 4096
    assert spec.kv_bytes_per_token("float16") == 524_288


def test_every_decision_has_a_reason(tmp_path: Path) -> None:
    spec = read_spec(write_checkpoint(tmp_path))
    assert all(made.choice and made.reason for made in spec.decisions)
    assert len({made.subject for made in spec.decisions}) == len(spec.decisions)


@pytest.mark.parametrize("pixel_mode", ["crop", "stretch", "pad"])
def test_the_preprocessor_file_decides_how_images_are_cut(tmp_path: Path, pixel_mode: str) -> None:
    spec = read_spec(write_checkpoint(tmp_path, pixel_mode=pixel_mode))
    assert (spec.pixels.mode, spec.pixels.size, spec.pixels.resize) == (pixel_mode, 32, 32)
    assert decision(spec, "pixels")[0].startswith(pixel_mode)


@pytest.mark.parametrize(
    ("changes", "mode", "resize"),
    [
        ({"size": 48}, "crop", 48),
        ({"size": {"shortest_edge": 48}, "crop_size": 32}, "crop", 48),
        ({"size": {"height": 32, "width": 32}}, "stretch", 32),
        ({"size": {"height": 32, "width": 32}, "do_center_crop": False, "crop_size": None}, "stretch", 32),
        ({"size": {"height": 32, "width": 32}, "do_pad": True}, "pad", 32),
        ({"do_pad": True, "do_center_crop": False}, "pad", 32),
    ],
)
def test_sizes_have_many_spellings(tmp_path: Path, changes: dict[str, object], mode: str, resize: int) -> None:
    write_checkpoint(tmp_path)
    for key, value in changes.items():
        edit(tmp_path, "preprocessor_config.json", key, value)
    spec = read_spec(tmp_path)
    assert (spec.pixels.mode, spec.pixels.resize) == (mode, resize)


def test_a_preprocessor_inside_the_processor_file_is_read(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, pixel_mode="pad")
    inner = json.loads((tmp_path / "preprocessor_config.json").read_text(encoding="utf-8"))
    (tmp_path / "preprocessor_config.json").unlink()
    edit(tmp_path, "processor_config.json", "image_processor", inner)
    assert read_spec(tmp_path).pixels.mode == "pad"


def test_the_chat_template_is_looked_for_in_all_its_places(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    assert read_spec(tmp_path).template == CHAT_TEMPLATE
    (tmp_path / "chat_template.jinja").unlink()
    spec = read_spec(tmp_path)
    assert spec.template is None
    assert decision(spec, "chat template") == (
        "vicuna_hub, built in",
        "the checkpoint has none; a Vicuna, as far as the tokenizer tells",
    )
    for file in ["tokenizer_config.json", "processor_config.json"]:
        edit(tmp_path, file, "chat_template", f"from {file}")
        assert read_spec(tmp_path).template == f"from {file}"
    write(tmp_path, {"chat_template.json": {"chat_template": "from its own"}})
    assert read_spec(tmp_path).template == "from its own"


def test_stop_tokens_come_from_the_first_file_that_names_them(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    edit(tmp_path, "generation_config.json", "eos_token_id", [2, 7])
    assert read_spec(tmp_path).stop_token_ids == (2, 7)
    (tmp_path / "generation_config.json").unlink()
    edit(tmp_path, "config.json", "text_config.eos_token_id", 5)
    assert read_spec(tmp_path).stop_token_ids == (5,)
    edit(tmp_path, "config.json", "eos_token_id", 6)
    assert read_spec(tmp_path).stop_token_ids == (6,)


@pytest.mark.parametrize("key", ["tie_word_embeddings", "text_config.tie_word_embeddings"])
def test_either_config_may_tie_the_embeddings(tmp_path: Path, key: str) -> None:
    write_checkpoint(tmp_path)
    edit(tmp_path, "config.json", key, True)
    assert read_spec(tmp_path).language.has_tied_embeddings


def test_a_stale_image_seq_length_is_not_believed(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    edit(tmp_path, "config.json", "image_seq_length", 576)
    assert plan_image(read_spec(tmp_path), 10, 10).num_tokens == 16


@pytest.mark.parametrize(
    ("file", "key", "value", "message"),
    [
        ("config.json", "auto_map", {"AutoModel": "modeling.X"}, "auto_map"),
        ("config.json", "model_type", "qwen2_vl", "'qwen2_vl'"),
        ("config.json", "vision_config", ..., "vision_config and text_config"),
        ("config.json", "text_config", "llama", "text_config is not an object"),
        ("config.json", "quantization_config", {"quant_method": "awq"}, "quantization_config"),
        ("config.json", "vision_config.model_type", "dinov2", "'dinov2'"),
        ("config.json", "vision_config.hidden_act", "relu", "'relu'"),
        ("config.json", "vision_config.image_size", [32, 32], r"image_size = \[32, 32\]"),
        ("config.json", "vision_config.num_attention_heads", 5, "heads do not divide"),
        ("config.json", "vision_feature_layer", [-2, "x"], "'x'"),
        ("config.json", "vision_feature_layer", -5, "no hidden state"),
        ("config.json", "vision_feature_layer", 4, "no hidden state"),
        ("config.json", "vision_feature_select_strategy", "cls", "'cls'"),
        ("config.json", "projector_hidden_act", "relu", "'relu'"),
        ("config.json", "text_config.model_type", "phi", "'phi'"),
        ("config.json", "text_config.hidden_act", "gelu", "'gelu'"),
        ("config.json", "text_config.hidden_size", "64", "hidden_size = '64'"),
        ("config.json", "text_config.num_hidden_layers", 0, "num_hidden_layers = 0"),
        ("config.json", "text_config.num_key_value_heads", 3, "do not divide"),
        ("config.json", "text_config.head_dim", 15, "even head_dim"),
        ("config.json", "text_config.rms_norm_eps", "small", "rms_norm_eps = 'small'"),
        ("config.json", "text_config.attention_bias", True, "attention_bias"),
        ("config.json", "text_config.mlp_bias", True, "mlp_bias"),
        ("config.json", "text_config.rope_parameters", {"rope_type": "llama3"}, "'llama3'"),
        ("config.json", "image_token_index", 320, "outside the vocabulary"),
        ("generation_config.json", "eos_token_id", "</s>", "no token id"),
        ("preprocessor_config.json", "image_processor_type", "ViTImageProcessor", "ViTImageProcessor"),
        ("preprocessor_config.json", "resample", 2, "bicubic"),
        ("preprocessor_config.json", "do_normalize", False, "do_normalize"),
        ("preprocessor_config.json", "do_resize", False, "do_resize"),
        ("preprocessor_config.json", "do_rescale", False, "do_rescale"),
        ("preprocessor_config.json", "do_center_crop", False, "do_center_crop"),
        ("preprocessor_config.json", "crop_size", {"height": 30, "width": 32}, "images of 32x30"),
        ("preprocessor_config.json", "size", {"longest_edge": 32}, "not understood"),
        ("preprocessor_config.json", "size", {"height": 40, "width": 40}, "is not served"),
        ("preprocessor_config.json", "image_mean", 0.5, "not three numbers"),
        ("preprocessor_config.json", "image_std", ["a", "b", "c"], "not three numbers"),
    ],
)
def test_what_is_not_served_is_refused_by_file_and_key(
    tmp_path: Path, file: str, key: str, value: object, message: str
) -> None:
    write_checkpoint(tmp_path)
    edit(tmp_path, file, key, value)
    with pytest.raises(UnsupportedCheckpoint, match=message):
        read_spec(tmp_path)


def test_null_means_the_default(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    for key in ("rms_norm_eps", "num_key_value_heads", "head_dim", "dtype", "rope_scaling"):
        edit(tmp_path, "config.json", f"text_config.{key}", None)
    language = read_spec(tmp_path).language
    assert (language.rms_norm_eps, language.num_kv_heads, language.head_dim) == (1e-6, 4, 16)


def test_the_old_spelling_of_rotary_scaling_is_refused_too(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    edit(tmp_path, "config.json", "text_config.rope_scaling", {"type": "linear", "factor": 2.0})
    assert read_spec(tmp_path).language.rope_theta == 10000.0, "rope_parameters is newer and wins"
    edit(tmp_path, "config.json", "text_config.rope_parameters", ...)
    with pytest.raises(UnsupportedCheckpoint, match="'linear'"):
        read_spec(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", None, "no config.json"),
        ("preprocessor_config.json", None, "no preprocessor_config.json"),
        ("config.json", b"{", "config.json is not JSON"),
        ("config.json", b"[" * 100_000, "config.json is not JSON"),
        ("generation_config.json", b"[]", "not a JSON object"),
        ("chat_template.jinja", b"\xff", "not UTF-8"),
    ],
    ids=str,
)
def test_files_that_are_missing_or_broken_are_named(
    tmp_path: Path, file: str, content: bytes | None, message: str
) -> None:
    write_checkpoint(tmp_path)
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(UnsupportedCheckpoint, match=message):
        read_spec(tmp_path)
