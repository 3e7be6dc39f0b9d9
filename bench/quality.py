"""What precision costs: logits and greedy answers in bfloat16, int8, int4 and fp8 beside float32: `… [SCENES]`.

`tiny` answers questions about freshly drawn pictures. A model of random weights continues random ids: its choices are
nearer to ties than those of a trained one, so it shows errors at their worst.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import linear

import lavatube
from lavatube import assembly
from lavatube.checkpoint.read import read_spec
from lavatube.model.llava import Llava
from lavatube.model.load import load_model
from lavatube.model.panels import Panels, to_e4m3
from lavatube.prompt.chat import Generation, single_turn
from lavatube.prompt.prepare import Prepared
from lavatube.settings import read_settings
from lavatube.spec import ModelSpec, Quantize
from tests.checkpoints import write_checkpoint
from tests.model.driver import Driver, Stream
from train.claims import is_right
from train.evaluate import HELD_OUT_SEED, sample_cases

TINY = Path(lavatube.__file__).parent / "tiny"
ANSWER_TOKENS = 60
PRECISIONS: tuple[tuple[str, torch.dtype, Quantize], ...] = (
    ("float32", torch.float32, "none"),
    ("bfloat16", torch.bfloat16, "none"),
    ("int8", torch.bfloat16, "int8"),
    ("int4", torch.bfloat16, "int4"),
    ("fp8", torch.bfloat16, "fp8"),
    ("fp8, rows too", torch.bfloat16, "fp8"),  # all of them; on a GPU, where there are many
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """Ids, with the pictures that stand at the image's."""

    token_ids: list[int]
    pixels: Tensor | None = None


@dataclass(slots=True)
class Found:
    """Of one precision. `agreement`: how often it says the same next, given the same text so far."""

    errors: list[float] = field(default_factory=list)
    agreement: list[float] = field(default_factory=list)
    answers: list[list[int]] = field(default_factory=list)


def main(num_scenes: int = 12) -> None:
    """Print the tables."""
    cases = [case for case in sample_cases(HELD_OUT_SEED, num_scenes) if len(case.conversation.exchanges) == 1]
    settings = read_settings()
    preparer = assembly.make_preparer(read_spec(TINY), TINY, settings)
    try:
        prompts = [
            _read(preparer.prepare(single_turn(case.exchange.question, case.file), Generation())) for case in cases
        ]
        found = _measure(TINY, prompts)
        decode = preparer.tokenizer.vocabulary.decode
        right = {
            name: mean(
                is_right(case.exchange, case.things, b"".join(map(decode, answer)).decode().strip())
                for case, answer in zip(cases, one.answers, strict=True)
            )
            for name, one in found.items()
        }
    finally:
        preparer.close()
    _show(f"tiny, {len(cases)} questions about drawn pictures", found, right)
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(
            Path(folder), hidden_size=512, intermediate_size=1408, layers=8, heads=8, kv_heads=2, vocab_size=4096,
            dtype="bfloat16",
        )  # fmt: skip
        draw = torch.Generator().manual_seed(0)
        noise = [Prompt(torch.randint(3, 300, (64,), generator=draw).tolist()) for _ in range(6)]
        _show("random weights, 512 wide, 8 layers, 6 prompts of random ids", _measure(Path(folder), noise), {})


def _measure(folder: Path, prompts: Sequence[Prompt]) -> dict[str, Found]:
    spec = read_spec(folder)
    found: dict[str, Found] = {}
    exact: list[Tensor] = []
    for name, dtype, quantize in PRECISIONS:
        model = load_model(spec, folder, torch.device("cpu"), dtype, lambda done, total: None, quantize)
        if quantize == "fp8":
            use_unpacked(model, is_rounding=name != "fp8")
        one = found[name] = Found()
        for index, prompt in enumerate(prompts):
            one.answers.append(_answer(model, spec, prompt))
            logits = _logits(model, spec, prompt, found["float32"].answers[index])
            if name == "float32":
                exact.append(logits)
            apart = exact[index] - exact[index].mean(dim=-1, keepdim=True)
            one.errors.append(float((logits - exact[index]).norm() / apart.norm()))
            one.agreement.append(float((logits.argmax(-1) == exact[index].argmax(-1)).float().mean()))
    return found


def use_unpacked(model: Llava, *, is_rounding: bool) -> None:
    """Of fp8 a CPU has no kernels: its products are torch's, with weights that are unpacked once."""
    matrices = {each: each.unpack() for each in model.modules() if isinstance(each, Panels)}

    def product(panels: Panels, hidden: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        rows = hidden.float()
        if is_rounding:
            levels, scales = to_e4m3(rows, torch.float32)
            rows = levels.float() * scales[..., None]
        return linear(rows, matrices[panels], None if bias is None else bias.float()).to(dtype)

    for operation in model.fused.products:
        operation.prove(product, [])


def _answer(model: Llava, spec: ModelSpec, prompt: Prompt) -> list[int]:
    (answer,) = Driver(model, spec, num_blocks=512).generate([_embed(model, spec, prompt)], ANSWER_TOKENS)
    ends = [index for index, token_id in enumerate(answer) if token_id in spec.stop_token_ids]
    return answer[: ends[0]] if ends else answer


def _logits(model: Llava, spec: ModelSpec, prompt: Prompt, answer: list[int]) -> Tensor:
    """Of what comes after the prompt and after each of an answer's tokens. Shapes: out (tokens + 1, vocabulary)."""
    rows = torch.cat([_embed(model, spec, prompt), model.embed_tokens(torch.tensor(answer, dtype=torch.int64))])
    (logits,) = Driver(model, spec, num_blocks=512).step([(Stream(), rows)])
    return logits[len(prompt.token_ids) - 1 :]


def _embed(model: Llava, spec: ModelSpec, prompt: Prompt) -> Tensor:
    ids = torch.tensor(prompt.token_ids)
    rows = model.embed_tokens(ids).clone()
    if prompt.pixels is not None:
        rows[ids == spec.image_token_id] = model.encode_images(prompt.pixels).flatten(0, 1)
    return rows


def _read(prepared: Prepared) -> Prompt:
    (image,) = prepared.images
    size = read_spec(TINY).vision.image_size
    pixels = torch.frombuffer(bytearray(image.data), dtype=torch.uint8).view(-1, 3, size, size)
    return Prompt(prepared.token_ids, pixels)


def _show(title: str, found: dict[str, Found], right: dict[str, float]) -> None:
    table = Table(title=f"{title} (repeat: python -m bench.quality)", title_justify="left")
    for column in ("precision", "error of logits", "same next token", "same whole answer", "right"):
        table.add_column(column, justify="left" if column == "precision" else "right")
    for name, one in found.items():
        same = mean(answer == exact for answer, exact in zip(one.answers, found["float32"].answers, strict=True))
        is_right = f"{right[name]:.1%}" if right else "–"
        table.add_row(name, f"{mean(one.errors):.2%}", f"{mean(one.agreement):.2%}", f"{same:.1%}", is_right)
    Console(width=120).print(table)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
