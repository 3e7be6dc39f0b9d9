"""Trains the tokenizer on made-up conversations and writes it in the files that transformers reads."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from train.dialogue import SYSTEMS, sample_conversation, sample_single
from train.questions import choose
from train.scene import sample_scene

VOCABULARY_SIZE = 1024
PAD, BOS, EOS, UNKNOWN, IMAGE = "<pad>", "<s>", "</s>", "<unk>", "<image>"
SPECIALS = (PAD, BOS, EOS, UNKNOWN, IMAGE)
NUM_SCENES = 2500
TEMPLATE = Path(__file__).parent / "assets" / "chat_template.jinja"


def train_tokenizer(seed: int, num_scenes: int = NUM_SCENES) -> Tokenizer:
    """Learn byte-level pairs, so that any text survives the round trip; specials come first, from id 0."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    # An answer's first word is learned with the blank before it, which nobody wants to read.
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIALS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sample_text(seed, num_scenes), trainer)
    return tokenizer


def _sample_text(seed: int, num_scenes: int) -> Iterator[str]:
    random = np.random.default_rng([seed, 77])
    for _ in range(num_scenes):
        things = sample_scene(random).things
        conversations = [sample_conversation(random, things), *(sample_single(random, things) for _ in range(8))]
        for conversation in conversations:
            for turn, exchange in enumerate(conversation.exchanges):
                # As in the template: the first question follows the picture and a line break.
                start = "USER: " if turn else "\n"
                yield f"{start}{exchange.question} ASSISTANT: {exchange.answer}"
        yield choose(random, SYSTEMS)


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and the chat template."""
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "unk_token": UNKNOWN,
        "image_token": IMAGE,
        "extra_special_tokens": {"image_token": IMAGE},
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 2048,
        "padding_side": "left",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(TEMPLATE.read_text())
