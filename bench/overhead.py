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


class Stub(nn.Module):
    """What the engine asks of a model, without any arithmetic; always the same logits."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.language = nn.Module()
        self.language.embed_tokens = Table(vocab_size, 1)
        self._logits = torch.randn(1, vocab_size)

    def embed_tokens(self, token_ids: Tensor) -> Tensor:
        return torch.zeros(len(token_ids), 1)

    def forward(self, embeddings: Tensor, cache: KVCache, layout: Layout) -> Tensor:
        return embeddings

    def logits(self, hidden: Tensor) -> Tensor:
        return self._logits.expand(len(hidden), -1).contiguous()


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    greedy = _steps(Sampling(STEPS + 50))
    sampled = _steps(Sampling(STEPS + 50, temperature=0.7, top_p=0.9))
    title = f"overhead of a step, {STREAMS} streams, {SPEC.language.vocab_size} ids, stub model, CPU time of 1 thread"
    show(f"{title} (repeat: python -m bench overhead)", {"greedy": greedy, "sampled, top-p": sampled}, "ms")


def _steps(sampling: Sampling) -> list[float]:
    core = core_of_stub()
    for index in range(STREAMS):
        core.submit(Submit(str(index), [3 + index] * PROMPT_TOKENS, [], sampling))
    core.step()  # all prompts at once
    assert core.num_running == STREAMS
    times = []
    for _ in range(STEPS // 2):
        begun = time.thread_time()
        core.step()
        times.append(1000 * (time.thread_time() - begun))
    return times


def core_of_stub() -> EngineCore:
    return EngineCore(
        Stub(SPEC.language.vocab_size),  # type: ignore[arg-type]
        SPEC,
        num_blocks=STREAMS * 60,
        max_sequences=STREAMS,
        max_step_tokens=STREAMS * PROMPT_TOKENS,
    )


if __name__ == "__main__":
    main()
