"""Packed training against what the exported folder serves: the same ids, and no conversation sees another."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import train.pack
from train.dialogue import SYSTEMS, Conversation, sample_conversation, sample_single
from train.pack import IGNORED, PREFIX, pack, prefix, segment
from train.pool import tabulate
from train.scene import sample_scene
from train.tokenizer import EOS, IMAGE, SPECIALS

FOLDER = Path(train.pack.__file__).parents[1] / "src" / "lavatube" / "tiny"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


@pytest.fixture(scope="module")
def served() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(FOLDER)


def _conversations() -> list[Conversation]:
    random = np.random.default_rng(6)
    talks: list[Conversation] = []
    for system in ("", *SYSTEMS):
        for _ in range(12):
            things = sample_scene(random).things
            drawn = (sample_single(random, things), sample_conversation(random, things))
            talks += [Conversation(talk.exchanges, system, talk.has_picture) for talk in drawn]
    return talks


def test_training_ids_are_those_of_the_rendered_template(tokenizer: Tokenizer, served: PreTrainedTokenizerFast) -> None:
    image = SPECIALS.index(IMAGE)
    for talk in _conversations():
        rendered = served.apply_chat_template(talk.messages(), tokenize=False)
        ids, _ = segment(tokenizer, talk)
        ours = [*prefix(tokenizer, talk.system), image, *ids] if talk.has_picture else ids
        assert served(rendered)["input_ids"] == ours


def test_answers_are_what_the_model_is_asked_for(tokenizer: Tokenizer) -> None:
    for talk in _conversations()[:40]:
        ids, is_answer = segment(tokenizer, talk)
        spoken = [token for token, said in zip(ids, is_answer, strict=True) if said]
        text = tokenizer.decode(spoken, skip_special_tokens=False)
        assert f" {text}" == "".join(f" {exchange.answer}{EOS}" for exchange in talk.exchanges)


def test_any_text_survives_the_tokenizer(tokenizer: Tokenizer) -> None:
    for text in ("日本 🙂 ÿ", "  two  spaces\n\n", "\x00\x7f", "naïve Ωmega"):
        assert tokenizer.decode(tokenizer.encode(f" {text}").ids) == text  # but for the blank before the first word


def test_a_packed_conversation_sees_only_the_picture_and_itself(tokenizer: Tokenizer) -> None:
    random = np.random.default_rng(7)
    tables = np.stack([tabulate(sample_scene(random)) for _ in range(3)])
    packed = pack(random, tokenizer, tables)
    opening = packed.image_start + 144
    for row in range(len(tables)):
        starts = [at for at in range(opening, packed.ids.shape[1]) if packed.positions[row, at] == opening]
        first, second = starts[:2]
        mask = packed.mask[row, 0]
        assert mask[second, :opening].all()
        assert not mask[second, first:second].any()
        assert not torch.triu(mask, diagonal=1).any()
        assert PREFIX == 0


def test_labels_are_one_token_ahead(tokenizer: Tokenizer) -> None:
    random = np.random.default_rng(8)
    packed = pack(random, tokenizer, np.stack([tabulate(sample_scene(random)) for _ in range(3)]))
    rows, places = torch.nonzero(packed.labels != IGNORED, as_tuple=True)
    assert len(rows) > 100
    assert torch.equal(packed.labels[rows, places], packed.ids[rows, places + 1])
