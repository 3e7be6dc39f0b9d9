"""config.json of the original layout: what is decided, from which evidence, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lavatube.checkpoint.parts import read_parts
from lavatube.checkpoint.read import read_spec
from lavatube.errors import UnsupportedCheckpoint
from lavatube.geometry import plan_image
from lavatube.spec import ModelSpec

# What the published files say, in all that decides something.
V15: dict[str, object] = {
    "_name_or_path": "llava-v1.5-7b",
    "architectures": ["LlavaLlamaForCausalLM"],
    "model_type": "llava",
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "image_aspect_ratio": "pad",
    "image_grid_pinpoints": None,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "mm_hidden_size": 1024,
    "mm_projector_type": "mlp2x_gelu",
    "mm_resampler_type": None,
    "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False,
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2,
    "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "unfreeze_mm_vision_tower": True,
    "vocab_size": 32000,
}
V16 = V15 | {
    "model_type": "llava_llama",
    "image_aspect_ratio": "anyres",
    "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
    "mm_patch_merge_type": "spatial_unpad",
    "torch_dtype": "bfloat16",
}
V0 = V15 | {
    "model_type": "llava",
    "image_aspect_ratio": "square",
    "max_position_embeddings": 2048,
    "mm_projector_type": None,
    "mm_use_im_start_end": True,
    "mm_vision_tower": "openai/clip-vit-large-patch14",
    "vocab_size": 32003,
}
MISTRAL = {"architectures": ["LlavaMistralForCausalLM"], "model_type": "llava_mistral", "sliding_window": None}
QWEN = {"architectures": ["LlavaQwenForCausalLM"], "model_type": "llava_qwen", "vocab_size": 151936}
ONEVISION = (
    V16
    | QWEN
    | {
        "image_aspect_ratio": "anyres_max_9",
        "image_grid_pinpoints": "(1x1),...,(6x6)",
        "mm_tunable_parts": "mm_vision_tower,mm_mlp_adapter,mm_language_model",
        "mm_vision_tower": "google/siglip-so400m-patch14-384",
        "unfreeze_mm_vision_tower": False,
    }
)


def read(folder: Path, config: dict[str, object], **files: object) -> ModelSpec:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return read_spec(folder)


def test_1_5(tmp_path: Path) -> None:
    spec = read(tmp_path / "x", V15)
    assert (spec.layout, spec.family, spec.fidelity, spec.merge) == ("original", "llava", "original", "flat")
    assert (spec.vision.kind, spec.vision.select_layers, spec.vision.select_feature) == ("clip", (-2,), "patch")
    assert (spec.vision.num_features, spec.pixels.mode, spec.pixels.rounding) == (576, "pad", "truncate")
    assert (spec.projector.num_layers, spec.projector.has_norm, spec.has_newline) == (2, False, False)
    assert (spec.image_token_id, spec.stop_token_ids, spec.stop_strings) == (32000, (2,), ())
    assert (spec.template, spec.builtin_template, spec.dtype) == (None, "llava_v1", "float16")


def test_1_6(tmp_path: Path) -> None:
    spec = read(tmp_path / "x", V16)
    assert (spec.family, spec.merge, spec.has_newline, spec.pixels.mode) == ("llava_next", "unpad", True, "anyres")
    assert spec.pixels.grids == ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
    assert (spec.pixels.max_tiles, spec.pixels.several) == (None, "same")


def test_v0(tmp_path: Path) -> None:
    spec = read(tmp_path / "x", V0)
    assert (spec.projector.num_layers, spec.vision.num_features, spec.has_image_marks) == (1, 256, True)
    assert (spec.builtin_template, spec.stop_strings, spec.image_token_id) == ("llava_v0", ("###",), 32003)


def test_onevision(tmp_path: Path) -> None:
    spec = read(tmp_path / "x", ONEVISION)
    assert (spec.family, spec.language.kind, spec.language.has_qkv_bias) == ("llava_onevision", "qwen2", True)
    assert (spec.vision.kind, spec.vision.num_layers_run, spec.vision.num_features) == ("siglip", 26, 729)
    assert (len(spec.pixels.grids), spec.pixels.grids[1]) == (36, (384, 768))
    assert (spec.pixels.max_tiles, spec.pixels.several, spec.pixels.mean) == (9, "pad", (0.5, 0.5, 0.5))
    assert (spec.builtin_template, spec.stop_strings) == ("qwen_1_5", ("<|im_end|>",))


def test_vip(tmp_path: Path) -> None:
    spec = read(tmp_path / "x", V15 | {"mm_vision_tower": "clip_4layers_336"})
    assert (spec.family, spec.vision.select_layers) == ("vipllava", (-2, -5, -8, -11, 6))
    assert (spec.projector.has_norm, spec.builtin_template) == (True, "llava_v0")


@pytest.mark.parametrize(
    ("config", "added_tokens", "template"),
    [
        (V16, {}, "llava_v1"),
        (V16 | MISTRAL, {}, "mistral_instruct"),
        (V15 | MISTRAL, {}, "mistral_instruct"),
        (V15 | MISTRAL | {"sliding_window": 4096}, {}, "vicuna_v1"),
        (V16 | QWEN, {"<|im_end|>": 151645}, "qwen_1_5"),
        (V16 | {"vocab_size": 64000}, {"<|im_end|>": 7}, "chatml_direct"),
        (V16 | {"vocab_size": 128256}, {"<|eot_id|>": 128009}, "llava_llama_3"),
        (V0, {}, "llava_v0"),
        (V0 | {"mm_use_im_start_end": False}, {}, "llava_v1"),
        (V0 | {"max_position_embeddings": 4096}, {}, "llava_llama_2"),
    ],
)
def test_templates_by_evidence(
    tmp_path: Path, config: dict[str, object], added_tokens: dict[str, int], template: str
) -> None:
    """The original code would go by the names of these folders."""
    for name in ("vicuna", "my-model", "llava-mpt-llama-2-mistral-v1.6-34b"):
        spec = read(tmp_path / name, config, added_tokens=added_tokens)
        assert spec.builtin_template == template


def test_a_template_names_its_end_token(tmp_path: Path) -> None:
    llama_3 = V16 | {"vocab_size": 128256, "eos_token_id": 128001}
    entry = {"128009": {"content": "<|eot_id|>", "special": True}}
    spec = read(tmp_path / "a", llama_3, tokenizer_config={"added_tokens_decoder": entry})
    assert (spec.stop_token_ids, spec.stop_strings) == ((128001, 128009), ())
    spec = read(tmp_path / "b", llama_3, tokenizer={"added_tokens": [{"id": 128009, "content": "<|eot_id|>"}]})
    assert (spec.stop_token_ids, spec.stop_strings) == ((128001, 128009), ())


@pytest.mark.parametrize(
    ("files", "config", "kind", "is_legacy"),
    [
        (["tokenizer.model"], V15, "sentencepiece", True),
        (["tokenizer.model", "tokenizer.json"], V15, "sentencepiece", True),
        (["tokenizer.model", "tokenizer.json"], V16 | MISTRAL, "json", True),
        (["tokenizer.model"], V16 | MISTRAL, "sentencepiece", True),
        (["tokenizer.json"], V16 | QWEN, "json", True),
    ],
)
def test_tokenizers(tmp_path: Path, files: list[str], config: dict[str, object], kind: str, is_legacy: bool) -> None:
    for name in files:
        (tmp_path / name).write_text("{}")
    spec = read(tmp_path, config)
    assert (spec.tokenizer, spec.is_legacy_tokenizer) == (kind, is_legacy)


def test_what_decides_about_pictures_and_tokenizer_is_told(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_text("")
    told = {decision.subject: decision for decision in read(tmp_path, V16 | {"mm_use_im_start_end": True}).decisions}
    assert "a newline a row" in told["image layout"].choice
    assert "between <im_start> and <im_end>" in told["image token"].choice
    assert told["tokenizer"].choice == "tokenizer.model, a space in front of text after a special token"
    assert "cropped" not in told["pixels"].reason
    assert all(decision.reason for decision in told.values())


def test_legacy_is_turned_off_where_the_config_says_so(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_text("")
    assert not read(tmp_path, V15, tokenizer_config={"legacy": False}).is_legacy_tokenizer


class TestTower:
    def test_of_its_own_repository_must_be_here(self, tmp_path: Path) -> None:
        with pytest.raises(
            UnsupportedCheckpoint, match=r"needs openai/clip-vit-large-patch14-336.*folder vision_tower"
        ):
            read(tmp_path / "x", V15 | {"unfreeze_mm_vision_tower": False})

    @pytest.mark.parametrize("reference", ["../clip", "inner/clip", "./clip"])
    def test_beside_or_inside_the_folder(self, tmp_path: Path, reference: str) -> None:
        tower = tmp_path / "x" / reference
        tower.mkdir(parents=True)
        (tower / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": SMALL}))
        (tower / "preprocessor_config.json").write_text(
            json.dumps({"size": 56, "crop_size": 56, "do_center_crop": True})
        )
        spec = read(tmp_path / "x", V15 | {"mm_vision_tower": reference, "unfreeze_mm_vision_tower": False})
        assert (spec.vision.image_size, spec.vision.num_layers, spec.pixels.resize) == (56, 5, 56)

    def test_whose_sizes_nobody_knows(self, tmp_path: Path) -> None:
        with pytest.raises(UnsupportedCheckpoint, match="vision_tower"):
            read(tmp_path / "x", V15 | {"mm_vision_tower": "somebody/some-clip"})

    def test_that_is_no_clip_and_no_siglip(self, tmp_path: Path) -> None:
        tower = tmp_path / "x" / "vision_tower"
        tower.mkdir(parents=True)
        (tower / "config.json").write_text(json.dumps({"model_type": "dinov2"}))
        with pytest.raises(UnsupportedCheckpoint, match="dinov2"):
            read(tmp_path / "x", V15)

    def test_of_1e9_positions(self, tmp_path: Path) -> None:
        tower = tmp_path / "x" / "vision_tower"
        tower.mkdir(parents=True)
        huge = {"model_type": "clip_vision_model"} | SMALL | {"image_size": 1_000_000, "patch_size": 1}
        (tower / "config.json").write_text(json.dumps(huge))
        with pytest.raises(UnsupportedCheckpoint, match="image_size"):
            read(tmp_path / "x", V15)


SMALL: dict[str, object] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "image_size": 56,
    "patch_size": 14,
}


class TestParts:
    def test_a_lora_needs_its_base(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps(V15))
        (tmp_path / "adapter_model.bin").write_bytes(b"")
        (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "lmsys/vicuna-7b-v1.5"}))
        (missing,) = read_parts(tmp_path).missing
        assert (missing.kind, missing.reference) == ("base", "lmsys/vicuna-7b-v1.5")

    def test_a_lone_projector_needs_its_base(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps(V15 | {"_name_or_path": "lmsys/vicuna-7b-v1.5"}))
        (tmp_path / "mm_projector.bin").write_bytes(b"")
        assert [part.reference for part in read_parts(tmp_path).missing] == ["lmsys/vicuna-7b-v1.5"]

    def test_a_projector_beside_a_whole_model_needs_none(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps(V15))
        for name in ("mm_projector.bin", "pytorch_model-00001-of-00002.bin"):
            (tmp_path / name).write_bytes(b"")
        assert read_parts(tmp_path).missing == ()

    def test_other_layouts_have_none(self, tmp_path: Path) -> None:
        shutil.copytree(tmp_path, tmp_path / "x")
        assert read_parts(tmp_path / "x").missing == ()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"architectures": ["LlavaMptForCausalLM"], "model_type": "llava_mpt"}, "LlavaMptForCausalLM"),
        ({"mm_vision_tower": None}, "names no vision tower"),
        ({"mm_vision_tower": 7}, "names no vision tower"),
        ({"mm_vision_tower": "a\0b"}, "names no vision tower"),
        ({"mm_vision_select_layer": 25}, "mm_vision_select_layer = 25"),
        ({"mm_vision_select_feature": "slicefour_patch"}, "mm_vision_select_feature"),
        ({"mm_projector_type": "qformer"}, "mm_projector_type = 'qformer'"),
        ({"mm_resampler_type": "perceiver"}, "mm_resampler_type"),
        ({"s2": True}, "s2"),
        ({"mm_patch_merge_type": "spatial_unpad_maxpool2x2"}, "mm_patch_merge_type"),
        ({"image_aspect_ratio": "highres"}, "image_aspect_ratio = 'highres'"),
        ({"image_aspect_ratio": "anyres"}, "image_grid_pinpoints is no list"),
        ({"image_aspect_ratio": "anyres", "image_grid_pinpoints": "__import__('os')"}, "neither a list nor a range"),
        ({"image_aspect_ratio": "anyres", "image_grid_pinpoints": "[" * 10_000}, "neither a list nor a range"),
        ({"image_aspect_ratio": "anyres", "image_grid_pinpoints": " " * 20_000}, "more than 16384 characters"),
        ({"image_aspect_ratio": "anyres", "image_grid_pinpoints": "(1x1),...,(999x999)"}, "more than 256 sizes"),
        ({"image_aspect_ratio": "anyres", "image_grid_pinpoints": [[336, 100]]}, "whole tiles of 336"),
        ({"image_aspect_ratio": "anyres", "image_grid_pinpoints": [[336, 336 * 100]]}, "more than 64 tiles"),
        ({"image_aspect_ratio": "anyres", "image_grid_pinpoints": [[336, "336"]]}, "whole tiles"),
        ({"vocab_size": 10**9}, "vocab_size"),
        ({"max_position_embeddings": 10**9}, "max_position_embeddings"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"auto_map": {"AutoModel": "evil.Model"}}, "auto_map"),
        ({"eos_token_id": 32000}, "eos_token_id"),
    ],
)
def test_refusals_name_the_key(tmp_path: Path, change: dict[str, object], said: str) -> None:
    with pytest.raises(UnsupportedCheckpoint) as caught:
        read(tmp_path / "x", V15 | change)
    assert said in caught.value.sentence


def test_class_token_in_a_map_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedCheckpoint, match="can't lay out"):
        read(tmp_path / "x", V16 | {"mm_vision_select_feature": "cls_patch"})


@pytest.mark.parametrize(
    ("change", "size", "num_tokens"),
    [
        ({"mm_patch_merge_type": None}, (97, 61), 80),  # flat: five tiles of sixteen
        ({"image_aspect_ratio": "pad"}, (97, 61), 16),  # one tile that is no list of tiles has no newline
        ({}, (300, 20), 16),  # so thin that no row of its map is kept
        ({}, (112, 112), 16 + 64 + 8),
        ({"mm_patch_merge_type": "spatial"}, (97, 61), 16 + 64),
    ],
)
def test_image_tokens_as_they_were_measured(
    tmp_path: Path, change: dict[str, object], size: tuple[int, int], num_tokens: int
) -> None:
    """Rows 5 and 6 of the measured facts, on a tower of 56 px in patches of 14."""
    tower = tmp_path / "x" / "vision_tower"
    tower.mkdir(parents=True)
    (tower / "config.json").write_text(json.dumps({"model_type": "clip_vision_model"} | SMALL))
    (tower / "preprocessor_config.json").write_text(json.dumps({"size": 56, "crop_size": 56}))
    grids = [[56, 112], [112, 56], [112, 112], [168, 56], [56, 168]]
    spec = read(tmp_path / "x", V16 | {"image_grid_pinpoints": grids} | change)
    assert plan_image(spec, *size).num_tokens == num_tokens
