"""The engine without its model: CPU time of a step of 32 streams when the forward pass costs nothing."""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn

from bench.model import SPEC
from bench.table import show
from lavatube.engine.core import EngineCore
from lavatube.engine.wire import Sampling, Submit
from lavatube.model.attention import KVCache, Layout
from lavatube.model.linear import Table

STREAMS = 32
STEPS = 200
PROMPT_TOKENS = 594
PEAKED = 5.0
"""Standard deviation of the logits: with this one a few tokens have nearly all probability, as in a language model."""
FLAT = 1.0


class Stub(nn.Module):
    """What the engine asks of a model, without any arithmetic; always the same logits. What it takes itself is told."""

    def __init__(self, vocab_size: int, spread: float) -> None:
        super().__init__()
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.language = nn.Module()
        self.language.embed_tokens = Table(vocab_size, 1)
        self._logits = spread * torch.randn(STREAMS, vocab_size)
        # An engine that has loaded weights has let go of pieces larger than logits, and glibc keeps what such a process
        # frees. Without, up to every other step takes its 4 MB from the kernel again, page by page.
        torch.empty(30 << 20, dtype=torch.uint8)
        self.spent_s = 0.0

    def embed_tokens(self, token_ids: Tensor) -> Tensor:
        return torch.zeros(len(token_ids), 1)

    def forward(self, embeddings: Tensor, cache: KVCache, layout: Layout) -> Tensor:
        return embeddings

    def logits(self, hidden: Tensor) -> Tensor:
        begun_s = time.thread_time()
        logits = self._logits.clone()  # as a model writes them: anew, into memory that the engine lets go
        self.spent_s += time.thread_time() - begun_s
        return logits


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    at_once = STEPS + 50
    figures = {
        "greedy": _steps(Sampling(at_once)),
        "temperature 0.7, top-p 0.9": _steps(Sampling(at_once, temperature=0.7, top_p=0.9)),
        "temperature 1, top-k 50": _steps(Sampling(at_once, temperature=1.0, top_k=50)),
        "temperature 1": _steps(Sampling(at_once, temperature=1.0)),
        "temperature 0.7, top-p 0.9, flat": _steps(Sampling(at_once, temperature=0.7, top_p=0.9), FLAT),
    }
    title = f"overhead of a step, {STREAMS} streams, {SPEC.language.vocab_size} ids, stub model, CPU time of 1 thread"
    show(f"{title} (repeat: python -m bench overhead)", figures, "ms")


def _steps(sampling: Sampling, spread: float = PEAKED) -> list[float]:
    stub = Stub(SPEC.language.vocab_size, spread)
    core = core_of_stub(stub)
    for index in range(STREAMS):
        core.submit(Submit(str(index), [3 + index] * PROMPT_TOKENS, [], sampling))
    core.step()  # all prompts at once
    assert core.num_running == STREAMS
    times = []
    for _ in range(STEPS // 2):
        begun_s, stub.spent_s = time.thread_time(), 0.0
        core.step()
        times.append(1000 * (time.thread_time() - begun_s - stub.spent_s))
    return times


def core_of_stub(stub: Stub) -> EngineCore:
    return EngineCore(
        stub,  # type: ignore[arg-type]
        SPEC,
        num_blocks=STREAMS * 60,
        max_sequences=STREAMS,
        max_step_tokens=STREAMS * PROMPT_TOKENS,
    )


if __name__ == "__main__":
    main()
