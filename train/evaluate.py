"""Measures an exported folder through transformers, on pictures of an unused seed that went through PNG or JPEG files.

`python -m train.evaluate FOLDER` prints one row a topic: how many questions, how many replies were right in every
claim, and the same apart for answers about one thing at most and about several.
"""

import argparse
import io
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from transformers import AutoTokenizer, LlavaForConditionalGeneration
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from train.claims import is_right
from train.dialogue import Conversation, sample_conversation, sample_single
from train.draw import draw, encode
from train.questions import Exchange
from train.scene import DIGITS, SHAPES, Thing, sample_scene

HELD_OUT_SEED = 20_260_101
QUESTIONS_PER_SCENE = 5
BATCH_SIZE = 100
MAX_NEW_TOKENS = 110
_KIND = re.compile(r"\b(?:circle|square|triangle|star|digit|letter)(s?)\b")


@dataclass(frozen=True, slots=True)
class Case:
    """One picture file with one conversation, whose last answer the model has to give."""

    file: bytes
    things: tuple[Thing, ...]
    conversation: Conversation

    @property
    def exchange(self) -> Exchange:
        return self.conversation.exchanges[-1]

    @property
    def topic(self) -> str:
        """Name the table's row; follow-ups count as their own topic, and glyphs as digits or letters."""
        kind = self.things[0].kind
        if len(self.conversation.exchanges) > 1:
            return "follow-up turn"
        if self.exchange.topic == "glyph":
            return "digit or letter, absent" if kind in SHAPES else "digit" if kind in DIGITS else "letter"
        return self.exchange.topic

    @property
    def is_about_several(self) -> bool:
        """The true answer speaks of more than one thing."""
        selector = self.exchange.selector
        if selector is not None:
            return len(selector.choose(self.things)) > 1
        plurals = _KIND.findall(self.exchange.answer)
        return len(plurals) > 1 or any(plurals)


class Replier:
    """An exported model, answering through transformers' own classes."""

    def __init__(self, folder: Path) -> None:
        self._model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._processor = CLIPImageProcessorPil.from_pretrained(folder)

    def reply(self, files: Sequence[bytes | None], chats: Sequence[list[dict[str, object]]]) -> list[str]:
        """Answer each chat greedily; a file may be None where its chat has no picture."""
        prompts = [
            self._tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats
        ]
        image = self._tokenizer.image_token
        prompts = [prompt.replace(image, image * self._model.config.image_seq_length) for prompt in prompts]
        inputs = self._tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
        pixels = self._pixels([file for file in files if file is not None])
        with torch.inference_mode():
            output = self._model.generate(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], pixel_values=pixels,
                max_new_tokens=MAX_NEW_TOKENS, do_sample=False,
            )  # fmt: skip
        spoken = output[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in self._tokenizer.batch_decode(spoken, skip_special_tokens=True)]

    def _pixels(self, files: Sequence[bytes]) -> Tensor | None:
        if not files:
            return None
        pictures = [Image.open(io.BytesIO(file)).convert("RGB") for file in files]
        return self._processor(images=pictures, return_tensors="pt")["pixel_values"]


def sample_cases(seed: int, num_scenes: int) -> list[Case]:
    """Draw fresh scenes and ask a few single questions and one follow-up about each."""
    random = np.random.default_rng([seed, 1])
    cases = []
    for _ in range(num_scenes):
        scene = sample_scene(random)
        file = encode(draw(scene, random), random)
        talks = [sample_single(random, scene.things) for _ in range(QUESTIONS_PER_SCENE)]
        talks.append(sample_conversation(random, scene.things))
        cases += [Case(file, scene.things, talk) for talk in talks if talk.has_picture]
    return cases


def answer(replier: Replier, cases: Sequence[Case]) -> list[str]:
    """Let the model reply to every case, in batches."""
    replies: list[str] = []
    for start in track(range(0, len(cases), BATCH_SIZE), description="Replying"):
        batch = cases[start : start + BATCH_SIZE]
        chats = [case.conversation.messages()[:-1] for case in batch]
        replies += replier.reply([case.file for case in batch], chats)
    return replies


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure an exported model on freshly drawn scenes.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scenes", type=int, default=500, help="how many pictures (default: 500)")
    parser.add_argument("--seed", type=int, default=HELD_OUT_SEED, help="an unused seed to draw them from")
    parser.add_argument("--errors", type=int, default=0, help="how many wrong replies to print")
    options = parser.parse_args()
    cases = sample_cases(options.seed, options.scenes)
    replies = answer(Replier(options.folder), cases)
    right: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    console = Console(width=200)
    num_printed = 0
    for case, reply in zip(cases, replies, strict=True):
        verdict = is_right(case.exchange, case.things, reply)
        right[case.topic].append((verdict, case.is_about_several))
        if not verdict and num_printed < options.errors:
            num_printed += 1
            question, truth = case.exchange.question, case.exchange.answer
            console.print(f"{case.topic}: {question!r}\n  right: {truth}\n  reply: {reply}", markup=False)
    title = f"{options.scenes} scenes of seed {options.seed}"
    table = Table("topic", "questions", "right, %", "of one thing, %", "of several, %", title=title)
    for topic in sorted(right):
        verdicts = np.array(right[topic])
        several = verdicts[:, 1]
        shares = (_percent(verdicts[chosen, 0]) for chosen in (several | True, ~several, several))
        table.add_row(topic, str(len(verdicts)), *shares)
    console.print(table)


def _percent(right: np.ndarray) -> str:
    return f"{100 * right.mean():.1f}" if right.size else "–"


if __name__ == "__main__":
    main()
