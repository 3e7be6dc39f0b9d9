"""How long steps took in, how much prompt work the next one may take on beside running streams out. Has no clock.

A stream's gap between two tokens is the length of a step. A step that only decodes sets the measure; one that also
computes part of a prompt, or part of an image, may take a few times as long and no more. What a token of a prompt and a
layer of the tower cost is learned from the steps themselves, so the same rule holds on a laptop and on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SHARE: Final = 1.5
"""How many times as long as decoding alone a step may spend on a prompt."""
MOST_PROMPTS: Final = 4
"""Each of so many that wait has such a share: time is divided among those who wait for a first token and for a next."""
UNNOTICED_S: Final = 0.015
"""More work than this is always allowed: streams of small models are faster than anybody reads."""
MIN_PROMPT_TOKENS: Final = 16
"""A step computes so many in any case, so that prompts always get on."""
_WEIGHT: Final = 0.3


@dataclass(frozen=True, slots=True)
class Work:
    """What one step does beside decoding."""

    num_layers: int = 0
    num_prompt_tokens: int = 0


class Pace:
    """What it has learned: seconds of a step that only decodes, of a layer of the tower, and of a token of a prompt."""

    def __init__(self) -> None:
        self.decode_s: float | None = None
        self.layer_s: float | None = None
        self.token_s: float | None = None
        self._last = Work()
        self._most = Work()  # of each kind, the most that was ever tried: no step tries more than twice that

    def plan(self, *, has_images: bool, has_prompts: bool, num_waiting: int = 1) -> Work:
        """What a step may do beside decoding, where so many prompts wait.

        Of two kinds of work they take turns: so it is seen what each costs.
        """
        share_s = max(SHARE * min(num_waiting, MOST_PROMPTS) * (self.decode_s or 0.0), UNNOTICED_S)
        if has_images and not (has_prompts and self._last.num_layers):
            return Work(num_layers=_amount(share_s, self.layer_s, 1, self._most.num_layers))
        if has_prompts:
            return Work(
                num_prompt_tokens=_amount(share_s, self.token_s, MIN_PROMPT_TOKENS, self._most.num_prompt_tokens)
            )
        return Work()

    def observe(self, work: Work, step_s: float) -> None:
        """A step with running streams took so long, with so much work of one kind beside them."""
        self._last = work
        if work == Work():
            self.decode_s = step_s if self.decode_s is None else self.decode_s + _WEIGHT * (step_s - self.decode_s)
            return
        if self.decode_s is None or step_s < self.decode_s:
            self.decode_s = step_s
        beside_s = max(step_s - self.decode_s, 1e-6)
        self._most = Work(
            max(self._most.num_layers, work.num_layers), max(self._most.num_prompt_tokens, work.num_prompt_tokens)
        )
        if work.num_layers:
            self.layer_s = _blend(self.layer_s, beside_s / work.num_layers)
        else:
            self.token_s = _blend(self.token_s, beside_s / work.num_prompt_tokens)


def _amount(share_s: float, cost_s: float | None, least: int, most_tried: int) -> int:
    """What fits into its share of the time."""
    if cost_s is None:
        return least
    return max(least, min(int(share_s / cost_s), 2 * most_tried))


def _blend(known_s: float | None, seen_s: float) -> float:
    """Dearer is believed at once, cheaper little by little."""
    if known_s is None or seen_s > known_s:
        return seen_s
    return known_s + _WEIGHT * (seen_s - known_s)
