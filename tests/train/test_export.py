"""The exported folder: llava-hf names, and transformers reads back the very weights."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import LlavaForConditionalGeneration

import train.tokenizer
from train.export import checkpoint_name, export
from train.llava import build_llava
from train.tokenizer import SPECIALS, train_tokenizer

FILES = {
    "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors", "preprocessor_config.json",
    "processor_config.json", "tokenizer.json", "tokenizer_config.json",
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    folder = Path(train.tokenizer.__file__).parents[1] / "src" / "lavatube" / "tiny"
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def test_transformers_reads_back_the_same_weights(tokenizer: Tokenizer, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_llava()
    export(model.state_dict(), tokenizer, tmp_path / "tiny")
    assert {path.name for path in (tmp_path / "tiny").iterdir()} == FILES
    again, report = LlavaForConditionalGeneration.from_pretrained(tmp_path / "tiny", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def test_names_are_those_of_llava_hf(tokenizer: Tokenizer, tmp_path: Path) -> None:
    export(build_llava().state_dict(), tokenizer, tmp_path / "tiny")
    names = set(load_file(tmp_path / "tiny" / "model.safetensors"))
    assert {
        "language_model.model.embed_tokens.weight",
        "language_model.model.layers.0.self_attn.q_proj.weight",
        "language_model.lm_head.weight",
        "multi_modal_projector.linear_1.weight",
        "vision_tower.vision_model.pre_layrnorm.weight",
        "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight",
    } <= names


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="no llava-hf name"):
        checkpoint_name("audio_tower.weight")


def test_specials_are_the_first_ids() -> None:
    tokenizer = train_tokenizer(3, num_scenes=60)
    assert [tokenizer.token_to_id(token) for token in SPECIALS] == list(range(len(SPECIALS)))
