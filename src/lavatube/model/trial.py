"""A process that compares kernels with their twins, one by one, and may die of it: `python -m lavatube.model.trial`.

The question is a line of JSON on its input; it tells on its output of each kernel before and after, in lines of JSON.
It ends when its input does.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Literal

import msgspec
import torch

from lavatube.model.examples import Examples
from lavatube.model.fused import Fused, kernels_for
from lavatube.model.operation import first_lines
from lavatube.spec import LanguageSpec, Quantize


class Question(msgspec.Struct, frozen=True):
    """Which of the kernels of a module do what torch does: those with `keys`, on examples of this model."""

    language: LanguageSpec
    block_size: int
    dtype: str
    device: str
    quantize: Quantize
    module: str
    keys: list[str]

    @property
    def examples(self) -> Examples:
        dtype, device = getattr(torch, self.dtype), torch.device(self.device)
        return Examples(self.language, self.block_size, dtype, device, self.quantize)


class Told(msgspec.Struct, frozen=True):
    """What has become of one kernel. Of one that is `untried` there was no memory to tell."""

    key: str
    state: Literal["begun", "sound", "differs", "untried"]
    why: str = ""


def main() -> None:
    """Whatever else than a difference a kernel raises ends the process: nothing on the device may work afterwards."""
    question = msgspec.json.decode(sys.stdin.buffer.readline(), type=Question)
    threading.Thread(target=_end_with_input, daemon=True).start()
    with os.fdopen(os.dup(1), "wb", buffering=0) as out:
        os.dup2(2, 1)  # what compilers print is not ours
        if question.device.startswith("cuda"):
            torch.cuda.set_device(question.device)
        for key in question.keys:
            out.write(_line(Told(key, "begun")))
            out.write(_line(_try(question, key)))


@torch.inference_mode()
def _try(question: Question, key: str) -> Told:
    examples, operation = question.examples, Fused().operations[key]
    try:
        operation.compare(kernels_for(examples.device, question.module)[key], examples.of(key))
    except AssertionError as error:
        return Told(key, "differs", first_lines(error))
    except RuntimeError as error:
        if "out of memory" not in str(error):  # torch's, and Triton's, too
            raise
        return Told(key, "untried", first_lines(error))
    return Told(key, "sound")


def _line(told: Told) -> bytes:
    return msgspec.json.encode(told) + b"\n"


def _end_with_input() -> None:
    while os.read(0, 1):
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
