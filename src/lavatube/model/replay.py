"""Decode steps that are recorded once for each number of rows, and then replayed: no launch is waited for.

Inputs are copied to where the recording reads them; rows that nobody needs belong to a block that is nobody's.
Knows no requests, and of a device only how it records.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from lavatube.model.attention import KVCache, Layout
from lavatube.model.fused_attention import FusedAttention, Singles
from lavatube.model.llava import Llava

logger = logging.getLogger(__name__)

Decoded = tuple[Tensor, Tensor]
"""States after the last norm (rows, hidden), and logits (rows, vocabulary) float32."""
Record = Callable[[Callable[[], Decoded]], tuple[Callable[[], object], Decoded]]
"""Runs a step; returns what repeats it on whatever its inputs hold then, and the tensors that hold its results."""

_MOST_ERROR: Final = 0.05
"""Of a replayed step beside the same computed, by the norm of the logits; whatever is wrong is wrong by far more."""


def cuda_recorder() -> Record:
    """Records as CUDA graphs, which share the memory of what they compute in between."""
    pool = torch.cuda.graph_pool_handle()

    def record(step: Callable[[], Decoded]) -> tuple[Callable[[], object], Decoded]:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # what is set up at first use must not be recorded
            step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            results = step()
        return graph.replay, results

    return record


class _Inputs:
    """What a recording reads, in one piece of memory, and its image on the host."""

    def __init__(self, size: int, max_blocks: int, scratch_block: int, block_size: int, device: torch.device) -> None:
        self._size, self._scratch_block, self._block_size = size, scratch_block, block_size
        numbers = size * (4 + max_blocks)
        self._host = torch.zeros(numbers, dtype=torch.int64, pin_memory=device.type == "cuda")
        self._on_host = self._split(self._host)
        self._empty(0)
        self._device = self._host.to(device)
        self._is_copied = torch.cuda.Event() if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self.token_ids, self.positions, self.slots, self.context_lengths, self.block_tables = self._split(self._device)

    def fill(self, token_ids: Tensor, layout: Layout, chosen: Tensor | None = None) -> None:
        """The rows of a step, as in `Replay.decode`; those that are left read and write the scratch block."""
        if self._is_copied is not None:
            self._is_copied.synchronize()  # the image of the step before may be on its way still
        count, num_blocks = layout.block_tables.shape
        lengths = torch.tensor(layout.context_lengths)
        for goal, values in zip(self._on_host, (token_ids, layout.positions, layout.slots, lengths), strict=False):
            goal[:count] = values
        self._on_host[-1][:count, :num_blocks] = layout.block_tables
        self._empty(count)
        used = self._size * (4 + num_blocks)
        self._device[:used].copy_(self._host[:used], non_blocking=True)
        if self._is_copied is not None:
            self._is_copied.record()
        if chosen is not None:
            self.token_ids[:count] = chosen[self.token_ids[:count]]

    def _empty(self, first: int) -> None:
        """Give the rows from `first` on to nobody."""
        token_ids, positions, slots, lengths, tables = self._on_host
        token_ids[first:] = positions[first:] = 0
        slots[first:], lengths[first:] = self._scratch_block * self._block_size, 1
        tables[first:, 0] = self._scratch_block

    def _split(self, numbers: Tensor) -> list[Tensor]:
        """Shapes: out (size,) four times, (size, max_blocks): a table's first entries first, so that few are copied."""
        *columns, tables = torch.split_with_sizes(numbers, [self._size] * 4 + [len(numbers) - 4 * self._size])
        return [*columns, tables.view(-1, self._size).T]


@dataclass(slots=True)
class _Recording:
    inputs: _Inputs
    repeat: Callable[[], object]
    results: Decoded
    is_proven: bool = False
    """Whether it was once what the step is when it is computed."""


class Replay:
    """The recordings of one model and its cache."""

    def __init__(
        self, model: Llava, cache: KVCache, scratch_block: int, max_rows: int, max_blocks: int, record: Record
    ) -> None:
        """No sequence has the `scratch_block`, and none more than `max_blocks`."""
        self._model, self._cache = model, cache
        self._scratch_block = scratch_block
        self._max_rows, self._max_blocks = max_rows, max_blocks
        self._record = record
        self._recordings: dict[int, _Recording] = {}
        self._wanted: set[int] = set()
        self._is_broken = False

    def has(self, count: int) -> bool:
        """Whether steps of so many rows are recorded; if not, it is noted that they are wanted."""
        size = self._size(count)
        if size not in self._recordings:
            self._wanted.add(size)
        return size in self._recordings and not self._is_broken

    @torch.inference_mode()
    def decode(self, token_ids: Tensor, layout: Layout, chosen: Tensor | None = None) -> Decoded:
        """One row for each sequence, all tensors on the host. What is returned is good until the next call.

        With `chosen` (n,), ids on the device that nobody has seen yet, `token_ids` are places in it.
        """
        count = len(token_ids)
        recording = self._recordings[self._size(count)]
        recording.inputs.fill(token_ids, layout, chosen)
        recording.repeat()
        hidden, logits = (results[:count] for results in recording.results)
        if not recording.is_proven:
            expected = self._compute(recording.inputs)
            if expected[1].isfinite().all():
                recording.is_proven = _is_near(logits, expected[1][:count])
                self._is_broken = not recording.is_proven
            if self._is_broken:
                logger.warning("replayed steps differ from those that are computed: from now on all are, slower")
                return expected[0][:count], expected[1][:count]
        return hidden, logits

    @torch.inference_mode()
    def record_wanted(self) -> None:
        """The smallest of those that are wanted. Takes as long as some steps."""
        if self._is_broken or not self._wanted or not self._model.fused.is_settled:
            return
        if not self._model.fused.attend.is_proven:
            self._is_broken = True  # and it is told already
            return
        size = min(self._wanted)
        self._wanted.remove(size)
        inputs = _Inputs(size, self._max_blocks, self._scratch_block, self._cache.block_size, self._model.device)
        try:
            repeat, results = self._record(lambda: self._compute(inputs))
        except RuntimeError as error:
            self._is_broken = True
            logger.warning("steps can't be recorded, so all are computed, slower: %s", error)
        else:
            self._recordings[size] = _Recording(inputs, repeat, results)

    def _compute(self, inputs: _Inputs) -> Decoded:
        model = self._model
        singles = Singles(inputs.context_lengths, inputs.block_tables)
        attention = FusedAttention(
            model.fused, self._cache, inputs.slots, singles, window=model.language.sliding_window
        )
        hidden = model.language(model.embed_tokens(inputs.token_ids), inputs.positions, attention)
        return hidden, model.logits(hidden)

    def _size(self, count: int) -> int:
        """The next power of two, or as many rows as there can be."""
        return min(1 << (count - 1).bit_length(), self._max_rows)


def _is_near(values: Tensor, expected: Tensor) -> bool:
    return bool((values - expected).norm() <= _MOST_ERROR * expected.norm())
