"""A talk about pictures as each side takes it: our Chat, the library's messages, the prompt of the original's code.

The original's prompts are written to the character here, anew, and their ids by its rule.

Source: haotian-liu/LLaVA@c121f04 and LLaVA-VL/LLaVA-NeXT@df17966, llava/conversation.py and llava/mm_utils.py.
"""

from __future__ import annotations

import io
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image
from tokenizers import Tokenizer

from lavatube.prompt import chat
from lavatube.prompt.chat import Chat, ImageInput, Role, Text

Turn = tuple[str | tuple[int, int], ...]
"""What is said and the sizes of the pictures in front of it; the user has the first word."""
Talk = tuple[Turn, ...]

_HUMAN, _USER = (
    f"A chat between a curious {who} and an artificial intelligence assistant. "
    f"The assistant gives helpful, detailed, and polite answers to the {who}'s questions."
    for who in ("human", "user")
)
_ABLE: Final = (
    "You are a helpful language and vision assistant. "
    "You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
)


@dataclass(frozen=True)
class Prompt:
    """What the original makes of a talk, to the character; `{}` is what was said.

    `first` begins with the system sentence; `again` is any later turn of the user's.
    """

    first: str
    answer: str
    again: str
    opening: str
    picture: str = "<image>\n"

    def render(self, talk: Talk) -> str:
        said = [self._said(parts) for parts in talk]
        turns = [(self.answer if index % 2 else self.again).format(text) for index, text in enumerate(said)]
        return self.first.format(said[0]) + "".join(turns[1:]) + self.opening

    def _said(self, parts: Turn) -> str:
        return "".join(part if isinstance(part, str) else self.picture for part in parts)


V0: Final = Prompt(f"{_HUMAN}###Human: {{}}###", "Assistant: {}###", "Human: {}###", "Assistant:")
V0_MARKED: Final = replace(V0, picture="<im_start><image><im_end>\n")
V1: Final = Prompt(f"{_HUMAN} USER: {{}} ", "ASSISTANT: {}</s>", "USER: {} ", "ASSISTANT:")
BAK: Final = Prompt(f"{_USER} USER: {{}} ", "ASSISTANT: {}</s>", "USER: {} ", "ASSISTANT:")
LLAMA_2: Final = Prompt(f"[INST] <<SYS>>\n{_ABLE}\n<</SYS>>\n\n{{}} [/INST]", " {} </s>", "<s>[INST] {} [/INST]", "")
MISTRAL: Final = Prompt("[INST] {} [/INST]", " {} </s>", "[INST] {} [/INST]", "")
LLAMA_3: Final = Prompt(
    f"<|start_header_id|>system<|end_header_id|>\n\n{_ABLE}<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>",
    "<|start_header_id|>assistant<|end_header_id|>\n\n{}<|eot_id|>",
    "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>",
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
)
YI: Final = Prompt(
    "<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\n{}<|im_end|>",
    "<|im_start|>assistant\n{}<|im_end|>",
    "<|im_start|>user\n{}<|im_end|>",
    "<|im_start|>assistant\n",
)
QWEN: Final = Prompt(
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n",
    "<|im_start|>assistant\n{}<|im_end|>\n",
    "<|im_start|>user\n{}<|im_end|>\n",
    "<|im_start|>assistant\n",
)


def original_ids(folder: Path, prompt: str, images: list[list[int]]) -> list[int]:
    """Each piece of text between images on its own, as the original does, the start token only once."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    first, *rest = (tokenizer.encode(piece).ids for piece in prompt.split("<image>"))
    pairs = zip(images, rest, strict=True)
    return [*first, *(token_id for image, piece in pairs for token_id in [*image, *piece[1:]])]


def chat_of(talk: Talk) -> Chat:
    parts = [tuple(Text(part) if isinstance(part, str) else ImageInput(png(part)) for part in turn) for turn in talk]
    roles = [Role.ASSISTANT if index % 2 else Role.USER for index in range(len(talk))]
    return Chat(tuple(map(chat.Turn, roles, parts)))


def content_of(part: str | tuple[int, int]) -> dict[str, object]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {"type": "image", "image": picture(part)}


def sizes_of(talk: Talk) -> list[tuple[int, int]]:
    return [part for turn in talk for part in turn if not isinstance(part, str)]


def picture(size: tuple[int, int]) -> Image.Image:
    """Patches of colour: enough structure that a wrong cut shows, no noise that hides one."""
    generator = np.random.default_rng(random.Random(str(size)).getrandbits(32))
    small = Image.fromarray(generator.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def png(size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    picture(size).save(buffer, "PNG")
    return buffer.getvalue()
