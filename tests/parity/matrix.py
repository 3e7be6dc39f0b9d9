"""What docs/models.md shows: every family in every layout, from its files to its answer, against `transformers`.

Run as a program it writes the table; as a test (test_matrix.py) it fails where the table says something else.
"""

from __future__ import annotations

import contextlib
import io
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoModelForImageTextToText, PreTrainedModel, ProcessorMixin
from transformers.utils import logging

from lavatube.checkpoint import read_spec
from lavatube.geometry import plan_image
from lavatube.model.load import load_model
from lavatube.predictor import Predictor
from lavatube.prompt.chat import Generation, single_turn
from lavatube.prompt.prepare import Prepared
from tests.checkpoints import write_checkpoint
from tests.model.driver import Driver, Stream
from tests.originals import write_original
from tests.parity.processors import load_processor

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "models.md"
BEGIN, END = "<!-- matrix: written by python -m tests.parity.matrix -->", "<!-- end of matrix -->"
CHECKS: Final = ("loads", "pixels", "ids", "logits", "text")
NUM_NEW_TOKENS: Final = 24
SIZES: Final = [(97, 61), (33, 95)]
QUESTION: Final = "What is in the picture?"

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
_SAID: Final = f"<image>\n{QUESTION}"
V0: Final = f"{_HUMAN}###Human: {_SAID}###Assistant:"
V0_MARKED: Final = f"{_HUMAN}###Human: <im_start><image><im_end>\n{QUESTION}###Assistant:"
V1: Final = f"{_HUMAN} USER: {_SAID} ASSISTANT:"
BAK: Final = f"{_USER} USER: {_SAID} ASSISTANT:"
LLAMA_2: Final = f"[INST] <<SYS>>\n{_ABLE}\n<</SYS>>\n\n{_SAID} [/INST]"
LLAMA_3: Final = (
    f"<|start_header_id|>system<|end_header_id|>\n\n{_ABLE}<|eot_id|>"
    f"<|start_header_id|>user<|end_header_id|>\n\n{_SAID}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
)
MISTRAL: Final = f"[INST] {_SAID} [/INST]"
YI: Final = (
    f"<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\n{_SAID}<|im_end|><|im_start|>assistant\n"
)
QWEN: Final = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    f"<|im_start|>user\n{_SAID}<|im_end|>\n<|im_start|>assistant\n"
)
MARKS: Final = ("<im_start>", "<im_end>")
CHATML: Final = ("<|im_start|>", "<|im_end|>")
HEADERS: Final = ("<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>")

SIGLIP: Final[dict[str, Any]] = {"tower": "siglip", "select_layer": -1, "select_strategy": "full"}
NEXT: Final[dict[str, Any]] = {"family": "llava_next"}
NEXT_LLAMA_3: Final[dict[str, Any]] = NEXT | {"rope_theta": 500000.0, "special_tokens": HEADERS}
NEXT_QWEN: Final[dict[str, Any]] = NEXT | {"language": "qwen2", "special_tokens": CHATML}
NEXT_YI: Final[dict[str, Any]] = NEXT | {"rope_theta": 5000000.0, "kv_heads": 1, "special_tokens": CHATML}
INTERLEAVE: Final[dict[str, Any]] = SIGLIP | {"language": "qwen2", "tied": True, "special_tokens": CHATML}
ONEVISION: Final[dict[str, Any]] = INTERLEAVE | {"family": "llava_onevision"}
VIP: Final[dict[str, Any]] = {"family": "vipllava", "vision_layers": 12, "select_layer": (-2, -5, -8, -11, 6)}
PADDED: Final[dict[str, Any]] = {"pixel_mode": "pad"}
PAD: Final[dict[str, Any]] = {"image_aspect_ratio": "pad"}
LINEAR: Final[dict[str, Any]] = {"mm_projector_type": "linear"}


@dataclass(frozen=True)
class Row:
    """A family in one layout. `prompt` is the original's, to the character; llava-hf checkpoints bring their own.

    The original's projector of one layer is in no class of the library: there its own has the second taken away.
    """

    family: str
    published: str
    recipe: dict[str, Any]
    prompt: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def layout(self) -> str:
        return "llava-hf" if self.prompt is None else "original"

    @property
    def has_linear_projector(self) -> bool:
        return self.settings.get("mm_projector_type") == "linear"


ROWS: Final = (
    Row("1.5", "llava-hf/llava-1.5-7b-hf", {}),
    Row("1.5, Mistral", "llava-hf/bakLlava-v1-hf", {"language": "mistral", "sliding_window": 48}),
    Row("1.6, Vicuna", "llava-hf/llava-v1.6-vicuna-7b-hf", NEXT),
    Row("1.6, Mistral", "llava-hf/llava-v1.6-mistral-7b-hf", NEXT | {"language": "mistral"}),
    Row("1.6, Yi", "llava-hf/llava-v1.6-34b-hf", NEXT_YI),
    Row("NeXT, Llama 3", "llava-hf/llama3-llava-next-8b-hf", NEXT_LLAMA_3),
    Row("NeXT, Qwen", "llava-hf/llava-next-72b-hf", NEXT_QWEN),
    Row("NeXT-Video, pictures", "llava-hf/LLaVA-NeXT-Video-7B-hf", {"family": "llava_next_video"}),
    Row("Interleave", "llava-hf/llava-interleave-qwen-0.5b-hf", INTERLEAVE),
    Row("OneVision", "llava-hf/llava-onevision-qwen2-0.5b-ov-hf", ONEVISION),
    Row("ViP-LLaVA", "llava-hf/vip-llava-7b-hf", VIP),
    Row(
        "v0, its delta applied",
        "liuhaotian/LLaVA-7b-delta-v0",
        {"special_tokens": MARKS},
        V0_MARKED,
        LINEAR | {"mm_use_im_start_end": True},
    ),
    Row("v1", "liuhaotian/llava-v1-0719-336px-lora-merge-vicuna-13b-v1.3", {}, V1, LINEAR),
    Row("v1, Llama 2", "liuhaotian/llava-llama-2-13b-chat-lightning-preview", {"max_positions": 4096}, LLAMA_2, LINEAR),
    Row("1.5", "liuhaotian/llava-v1.5-7b", PADDED, V1, PAD),
    Row("1.5, Mistral", "microsoft/llava-med-v1.5-mistral-7b", {"language": "mistral"} | PADDED, MISTRAL, PAD),
    Row(
        "1.5, Mistral's base",
        "SkunkworksAI/BakLLaVA-1",
        {"language": "mistral", "sliding_window": 48} | PADDED,
        BAK,
        PAD,
    ),
    Row("1.6, Vicuna", "liuhaotian/llava-v1.6-vicuna-7b", NEXT, V1),
    Row("1.6, Mistral", "liuhaotian/llava-v1.6-mistral-7b", NEXT | {"language": "mistral"}, MISTRAL),
    Row("1.6, Yi", "liuhaotian/llava-v1.6-34b", NEXT_YI, YI),
    Row("NeXT, Llama 3", "lmms-lab/llama3-llava-next-8b", NEXT_LLAMA_3, LLAMA_3),
    Row("NeXT, Qwen", "lmms-lab/llava-next-72b", NEXT_QWEN, QWEN),
    Row("Interleave", "lmms-lab/llava-next-interleave-qwen-0.5b", INTERLEAVE, QWEN),
    Row("OneVision", "lmms-lab/llava-onevision-qwen2-0.5b-ov", ONEVISION, QWEN),
    Row("ViP-LLaVA", "mucai/vip-llava-7b", VIP | PADDED, V0, PAD),
)


class Case:
    """One row's checkpoint, random and tiny, and both sides of every check."""

    def __init__(self, row: Row, root: Path) -> None:
        self.row = row
        self.reference = write_checkpoint(root / "reference", **{"max_positions": 2048} | row.recipe)
        self.folder = self.reference
        if row.prompt is not None:
            change = _make_linear if row.has_linear_projector else lambda tensors: None
            self.folder = write_original(
                root / "anything", self.reference, tower="own", settings=row.settings, change=change
            )
        self.spec = read_spec(self.folder)

    @cached_property
    def predictor(self) -> Predictor:
        return Predictor(str(self.folder), cache=self.folder.parent / "cache", dtype="float32")

    @cached_property
    def processor(self) -> ProcessorMixin:
        return load_processor(self.reference)

    @cached_property
    def theirs(self) -> PreTrainedModel:
        model = AutoModelForImageTextToText.from_pretrained(self.reference, dtype=torch.float32).eval()
        if self.row.has_linear_projector:
            model.model.multi_modal_projector = model.model.multi_modal_projector.linear_1
        return model

    def loads(self, size: tuple[int, int]) -> bool:
        self.predictor.setup()
        return self.spec.layout == self.row.layout and plan_image(self.spec, *size).num_tokens > 0

    def pixels(self, size: tuple[int, int]) -> bool:
        (image,) = self._prepared(size).images
        ours = torch.frombuffer(bytearray(image.data), dtype=torch.uint8).view(image.tiles, 3, image.size, image.size)
        pixels = self.spec.pixels
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (pixels.mean, pixels.std))
        theirs = self._their_inputs(size)["pixel_values"].flatten(0, -4)
        return torch.equal((theirs * std + mean).mul(255).round().to(torch.uint8), ours)

    def ids(self, size: tuple[int, int]) -> bool:
        return self._prepared(size).token_ids == self._their_ids(size)

    def logits(self, size: tuple[int, int]) -> bool:
        prepared = self._prepared(size)
        model = load_model(self.spec, self.folder, torch.device("cpu"), torch.float32, lambda done, total: None)
        ids = torch.tensor(prepared.token_ids)
        is_image = ids == self.spec.image_token_id
        embeddings = model.embed_tokens(ids.masked_fill(is_image, 0)).clone()
        (image,) = prepared.images
        tiles = torch.frombuffer(bytearray(image.data), dtype=torch.uint8).view(image.tiles, 3, image.size, image.size)
        embeddings[is_image] = model.arrange(model.encode_images(tiles), plan_image(self.spec, *size))
        (ours,) = Driver(model, self.spec, num_blocks=512).step([(Stream(), embeddings)])
        with torch.inference_mode():
            theirs = self.theirs(**self._their_inputs(size)).logits[0]
        return ours.shape == theirs.shape and bool((ours - theirs).abs().max() < 1e-3)

    def text(self, size: tuple[int, int]) -> bool:
        ours = "".join(self.predictor.predict(_png(size), QUESTION, temperature=0, max_tokens=NUM_NEW_TOKENS))
        inputs = self._their_inputs(size)
        with torch.inference_mode():
            ids = self.theirs.generate(**inputs, do_sample=False, max_new_tokens=NUM_NEW_TOKENS)[0]
        answer = self.processor.tokenizer.decode(ids[inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return bool(answer) and ours == answer

    def _prepared(self, size: tuple[int, int]) -> Prepared:
        self.predictor.setup()
        assert self.predictor._preparer is not None
        return self.predictor._preparer.prepare(single_turn(QUESTION, _png(size)), Generation(max_tokens=1))

    def _their_inputs(self, size: tuple[int, int]) -> dict[str, Tensor]:
        """Of the reference, with its own placeholder also where the ids are those of the original."""
        content = [{"type": "image", "image": _picture(size)}, {"type": "text", "text": QUESTION}]
        options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
        inputs = dict(self.processor.apply_chat_template([{"role": "user", "content": content}], **options))
        if self.row.prompt is not None:
            own, theirs = self.spec.image_token_id, self.processor.tokenizer.convert_tokens_to_ids("<image>")
            ids = torch.tensor([[theirs if token_id == own else token_id for token_id in self._their_ids(size)]])
            inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        return inputs

    def _their_ids(self, size: tuple[int, int]) -> list[int]:
        if self.row.prompt is None:
            return list(self._their_inputs(size)["input_ids"][0].tolist())
        num_tokens = plan_image(self.spec, *size).num_tokens
        return original_ids(self.folder, self.row.prompt, [self.spec.image_token_id] * num_tokens)


def original_ids(folder: Path, prompt: str, image: list[int]) -> list[int]:
    """Each piece of text between images on its own, as the original does, the start token only once."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    first, *rest = (tokenizer.encode(piece).ids for piece in prompt.split("<image>"))
    return [*first, *(token_id for piece in rest for token_id in [*image, *piece[1:]])]


def check(row: Row, root: Path) -> dict[str, bool]:
    """Every check of a row, with every picture."""
    case = Case(row, root)
    checks: dict[str, Callable[[tuple[int, int]], bool]] = {name: getattr(case, name) for name in CHECKS}
    with contextlib.closing(case.predictor):
        return {name: all(one(size) for size in SIZES) for name, one in checks.items()}


def render(results: Iterator[tuple[Row, dict[str, bool]]]) -> str:
    """The table in Markdown, between its marks."""
    head = ["family", "layout", "as in", *CHECKS]
    lines = [BEGIN, "", _line(head), _line(["---"] * len(head))]
    for row, result in results:
        marks = ("yes" if result[name] else "**no**" for name in CHECKS)
        lines.append(_line([row.family, row.layout, f"`{row.published}`", *marks]))
    return "\n".join([*lines, "", END])


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def published() -> str:
    """The table that the document has."""
    text = DOCUMENT.read_text(encoding="utf-8")
    return text[text.index(BEGIN) : text.index(END) + len(END)]


def main() -> None:
    """Write the table anew."""
    with tempfile.TemporaryDirectory() as root:
        table = render((row, check(row, Path(root) / str(number))) for number, row in enumerate(ROWS))
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(text.replace(published(), table), encoding="utf-8")
    sys.stdout.write(f"{table}\n")


def _make_linear(tensors: dict[str, Tensor]) -> None:
    """Of two layers the first."""
    for kind in ("weight", "bias"):
        del tensors[f"model.mm_projector.2.{kind}"]
        tensors[f"model.mm_projector.{kind}"] = tensors.pop(f"model.mm_projector.0.{kind}")


def _picture(size: tuple[int, int]) -> Image.Image:
    """Patches of colour: enough structure that a wrong cut shows, no noise that hides one."""
    generator = np.random.default_rng(random.Random(str(size)).getrandbits(32))
    small = Image.fromarray(generator.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def _png(size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    _picture(size).save(buffer, "PNG")
    return buffer.getvalue()


logging.disable_progress_bar()

if __name__ == "__main__":
    main()
