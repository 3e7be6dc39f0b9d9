"""Config files that were never written by a friend: refused with file and key, in bounded time and memory."""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path
from typing import Any

import pytest

from lavatube.checkpoint.read import read_spec
from lavatube.errors import UnsupportedCheckpoint
from tests.checkpoint.test_hf import edit
from tests.checkpoints import write_checkpoint

BILLION = 10**9
NEXT: dict[str, Any] = {"family": "llava_next"}


@pytest.mark.parametrize(
    ("file", "key", "value", "message"),
    [
        (
            "config.json",
            "text_config.max_position_embeddings",
            BILLION,
            r"text_config.max_position_embeddings = 1000000000 is beyond",
        ),
        ("config.json", "text_config.num_hidden_layers", BILLION, "num_hidden_layers = .* is beyond 1024"),
        ("config.json", "text_config.head_dim", BILLION, "head_dim = .* is beyond"),
        ("config.json", "text_config.vocab_size", BILLION, "vocab_size = .* is beyond"),
        ("config.json", "text_config.hidden_size", BILLION, "hidden_size = .* is beyond"),
        ("config.json", "text_config.hidden_size", True, "hidden_size = True"),
        ("config.json", "text_config.hidden_size", 10**4000, "hidden_size = .* is beyond"),
        ("config.json", "text_config.rms_norm_eps", float("nan"), "rms_norm_eps = nan"),
        ("config.json", "text_config.rms_norm_eps", float("inf"), "rms_norm_eps = inf"),
        ("config.json", "vision_config.image_size", BILLION, "image_size = .* is beyond 4096"),
        ("config.json", "vision_config.patch_size", 1000, "1 to 65536 are served"),
        ("config.json", "vision_config.num_hidden_layers", BILLION, "num_hidden_layers = .* is beyond"),
        ("config.json", "vision_feature_layer", [-2] * 1000, "no list of 1 to 16 layers"),
        ("config.json", "vision_feature_layer", [], "no list of 1 to 16 layers"),
        ("config.json", "tie_word_embeddings", "no", "neither true nor false"),
        ("config.json", "model_type", ["llava"], r"type \['llava'\]"),
        ("config.json", "model_type", "x" * 10**6, "describes a model of type 'xxx"),
        ("generation_config.json", "eos_token_id", -1, "no token id of a vocabulary of 320"),
        ("generation_config.json", "eos_token_id", [2, BILLION], "no token id of a vocabulary of 320"),
        ("preprocessor_config.json", "size", {"shortest_edge": BILLION}, "is not understood"),
        ("preprocessor_config.json", "image_std", [0.5, 0, 0.5], "divides by nothing positive"),
        ("preprocessor_config.json", "image_mean", [0.5, float("nan"), 0.5], "not three numbers"),
        ("preprocessor_config.json", "image_mean", [0.5, 10**400, 0.5], "not three numbers"),
        ("preprocessor_config.json", "rescale_factor", 10**400, "not a positive number"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_number_that_no_model_has(tmp_path: Path, file: str, key: str, value: object, message: str) -> None:
    write_checkpoint(tmp_path)
    edit(tmp_path, file, key, value)
    refused_at_once(tmp_path, message)


@pytest.mark.parametrize(
    ("file", "key", "value", "message"),
    [
        ("preprocessor_config.json", "image_grid_pinpoints", [[32, 32]], "are not the same"),
        ("config.json", "image_grid_pinpoints", [[32, BILLION + 1]], "no two sides in whole tiles"),
        ("config.json", "image_grid_pinpoints", [[32, 32 * BILLION]], "more than 64 tiles"),
        ("config.json", "image_grid_pinpoints", [[32, 32]] * 10**5, "no list of 1 to 256"),
        ("config.json", "image_grid_pinpoints", [], "no list of 1 to 256"),
        ("config.json", "image_grid_pinpoints", "(1x1),...,(6x6)", "no list of 1 to 256"),
        ("config.json", "image_grid_pinpoints", [[0, 32]], "no two sides"),
        ("config.json", "vision_feature_select_strategy", "full", "17 rows of 16 patches"),
        ("preprocessor_config.json", "image_processor_type", "CLIPImageProcessor", "does not fit a model"),
        ("preprocessor_config.json", "crop_size", {"height": 64, "width": 64}, "another size than the base"),
    ],
)
def test_grids_that_fit_nothing(tmp_path: Path, file: str, key: str, value: object, message: str) -> None:
    write_checkpoint(tmp_path, **NEXT)
    edit(tmp_path, file, key, value)
    refused_at_once(tmp_path, message)


@pytest.mark.parametrize("value", ["anyres", "anyres_max_", "anyres_max_0", "anyres_max_99999", "pad", 9])
def test_an_aspect_ratio_that_is_no_limit(tmp_path: Path, value: object) -> None:
    write_checkpoint(
        tmp_path, family="llava_onevision", tower="siglip", select_layer=-1, select_strategy="full", language="qwen2"
    )
    edit(tmp_path, "config.json", "vision_aspect_ratio", value)
    refused_at_once(tmp_path, "vision_aspect_ratio")


@pytest.mark.parametrize(
    "changes",
    [
        {"max_window_layers": 1},
        {"layer_types": ["full_attention", "sliding_attention"]},
        {"layer_types": "sliding_attention"},
    ],
    ids=str,
)
def test_a_window_in_some_layers_only(tmp_path: Path, changes: dict[str, object]) -> None:
    write_checkpoint(tmp_path, language="qwen2", sliding_window=16)
    for key, value in changes.items():
        edit(tmp_path, "config.json", f"text_config.{key}", value)
    refused_at_once(tmp_path, "a sliding window in some layers only")


def test_a_window_that_no_layer_has_is_none(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, language="qwen2", sliding_window=16)
    edit(tmp_path, "config.json", "text_config.max_window_layers", 2)
    assert read_spec(tmp_path).language.sliding_window is None
    edit(tmp_path, "config.json", "text_config.layer_types", ["sliding_attention", "sliding_attention"])
    assert read_spec(tmp_path).language.sliding_window == 16


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "tokenizer_config.json"])
def test_a_file_that_never_ends(tmp_path: Path, file: str) -> None:
    write_checkpoint(tmp_path)
    with (tmp_path / file).open("wb") as opened:
        opened.truncate(64 << 30)  # a hole: it takes no space
    refused_at_once(tmp_path, f"{file} is larger than the 16 MiB")


def test_a_number_too_long_to_read(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": ' + "9" * 10**6 + "}", encoding="utf-8")
    refused_at_once(tmp_path, "config.json is not JSON")


def test_a_folder_where_a_file_should_be(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    (tmp_path / "preprocessor_config.json").mkdir()
    refused_at_once(tmp_path, "preprocessor_config.json can't be read")


def test_a_template_among_several_is_the_one_named_default(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, with_chat_template=False)
    templates = [{"name": "tool_use", "template": "other"}, {"name": "default", "template": "mine"}, "junk"]
    edit(tmp_path, "tokenizer_config.json", "chat_template", templates)
    assert read_spec(tmp_path).template == "mine"
    edit(tmp_path, "tokenizer_config.json", "chat_template", templates[:1])
    assert read_spec(tmp_path).template is None


def refused_at_once(folder: Path, message: str) -> None:
    begun, before_kib = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UnsupportedCheckpoint, match=message) as refusal:
        read_spec(folder)
    assert time.process_time() - begun < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 200 << 10
    assert refusal.value.remedy
    assert len(str(refusal.value)) < 600, json.dumps(str(refusal.value)[:200])
