"""What docs/models.md shows: every family in every layout, from its files to its answer, against `transformers`.

Run as a program it writes the table; as a test (test_matrix.py) it fails where the table says something else.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, PreTrainedModel, ProcessorMixin
from transformers.utils import logging

from lavatube.checkpoint.read import read_spec
from lavatube.geometry import ImagePlan, plan_image
from lavatube.model.load import load_model
from lavatube.predictor import Predictor
from lavatube.prompt.chat import Generation
from lavatube.prompt.prepare import Prepared
from tests.checkpoints import write_checkpoint
from tests.model.driver import Driver, Stream
from tests.originals import write_original
from tests.parity.processors import load_processor
from tests.parity.rows import ROWS, Row
from tests.parity.talks import Talk, chat_of, content_of, original_ids, sizes_of

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "models.md"
BEGIN, END = "<!-- matrix: written by python -m tests.parity.matrix -->", "<!-- end of matrix -->"
NUM_NEW_TOKENS: Final = 24
QUESTION: Final = "What is in the picture?"

ONE: Final[list[Talk]] = [(((97, 61), QUESTION),), (((33, 95), QUESTION),)]
ALONE: Final[list[Talk]] = [(("Who are you?",),)]
SEVERAL: Final[list[Talk]] = [(((97, 61), (40, 90), "Which is larger?"), ("This.",), ((33, 32), "And this?"))]
CHECKS: Final = {
    "loads": ONE, "pixels": ONE, "ids": ONE, "logits": ONE, "text": ONE, "alone": ALONE, "several": SEVERAL,
}  # fmt: skip


class Case:
    """One row's checkpoint, random and tiny, and both sides of every check."""

    def __init__(self, row: Row, root: Path) -> None:
        self.row = row
        self.reference = write_checkpoint(root / "reference", **{"max_positions": 2048} | row.recipe)
        self.folder = self.reference
        if row.prompt is not None:
            change = _make_linear if row.has_linear_projector else lambda tensors: None
            self.folder = write_original(
                root / "mpt-llama-2-mistral-34b",  # by which the original would go
                self.reference,
                tower="inside" if row.adapt else "own",
                settings=row.settings,
                change=change,
            )
            if row.adapt:
                row.adapt(self.folder)
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

    def loads(self, talk: Talk) -> bool:
        self.predictor.setup()
        return self.spec.layout == self.row.layout and all(plan.num_tokens > 0 for plan in self._plans(talk))

    def pixels(self, talk: Talk) -> bool:
        ours = torch.cat(self._our_tiles(talk))
        pixels = self.spec.pixels
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (pixels.mean, pixels.std))
        theirs = self._their_inputs(talk)["pixel_values"].flatten(0, -4)
        return torch.equal((theirs * std + mean).mul(255).round().to(torch.uint8), ours)

    def ids(self, talk: Talk) -> bool:
        return self._prepared(talk).token_ids == self._their_ids(talk)

    def logits(self, talk: Talk) -> bool:
        ids = torch.tensor(self._prepared(talk).token_ids)
        model = load_model(self.spec, self.folder, torch.device("cpu"), torch.float32, lambda done, total: None)
        is_image = ids == self.spec.image_token_id
        embeddings = model.embed_tokens(ids.masked_fill(is_image, 0)).clone()
        rows = [
            model.arrange(model.encode_images(tiles), plan)
            for tiles, plan in zip(self._our_tiles(talk), self._plans(talk), strict=True)
        ]
        embeddings[is_image] = torch.cat(rows)
        (ours,) = Driver(model, self.spec, num_blocks=512).step([(Stream(), embeddings)])
        with torch.inference_mode():
            theirs = self.theirs(**self._their_inputs(talk)).logits[0]
        return ours.shape == theirs.shape and bool((ours - theirs).abs().max() < 1e-3)

    def text(self, talk: Talk) -> bool:
        ours = "".join(self.predictor.chat(chat_of(talk), Generation(temperature=0, max_tokens=NUM_NEW_TOKENS)))
        inputs = self._their_inputs(talk)
        with torch.inference_mode():
            ids = self.theirs.generate(**inputs, do_sample=False, max_new_tokens=NUM_NEW_TOKENS)[0]
        answer = self.processor.tokenizer.decode(ids[inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return bool(answer) and ours == answer

    def alone(self, talk: Talk) -> bool:
        return self.ids(talk) and self.text(talk)

    def several(self, talk: Talk) -> bool:
        return self.ids(talk) and self.text(talk)

    def _plans(self, talk: Talk) -> list[ImagePlan]:
        sizes = sizes_of(talk)
        return [plan_image(self.spec, *size, num_images=len(sizes)) for size in sizes]

    def _prepared(self, talk: Talk) -> Prepared:
        self.predictor.setup()
        assert self.predictor._preparer is not None
        return self.predictor._preparer.prepare(chat_of(talk), Generation(max_tokens=1))

    def _our_tiles(self, talk: Talk) -> list[Tensor]:
        """Shapes: (tiles, 3, S, S) uint8 of each picture."""
        return [
            torch.frombuffer(bytearray(image.data), dtype=torch.uint8).view(image.tiles, 3, image.size, image.size)
            for image in self._prepared(talk).images
        ]

    def _their_inputs(self, talk: Talk) -> dict[str, Tensor]:
        """Of the reference, with its own placeholder also where the ids are those of the original."""
        messages = [
            {"role": "assistant" if index % 2 else "user", "content": [content_of(part) for part in turn]}
            for index, turn in enumerate(talk)
        ]
        options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
        inputs = dict(self.processor.apply_chat_template(messages, **options))
        if self.row.prompt is not None:
            own, theirs = self.spec.image_token_id, self.processor.tokenizer.convert_tokens_to_ids("<image>")
            ids = torch.tensor([[theirs if token_id == own else token_id for token_id in self._their_ids(talk)]])
            inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        return inputs

    def _their_ids(self, talk: Talk) -> list[int]:
        if self.row.prompt is None:
            return list(self._their_inputs(talk)["input_ids"][0].tolist())
        images = [[self.spec.image_token_id] * plan.num_tokens for plan in self._plans(talk)]
        return original_ids(self.folder, self.row.prompt.render(talk), images)


def check(row: Row, root: Path) -> dict[str, bool]:
    """Every check of a row, with every picture."""
    case = Case(row, root)
    with contextlib.closing(case.predictor):
        return {name: all(getattr(case, name)(talk) for talk in talks) for name, talks in CHECKS.items()}


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


logging.disable_progress_bar()

if __name__ == "__main__":
    main()
