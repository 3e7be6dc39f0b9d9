"""Strings questions together into conversations, with follow-ups, and roughens them as people type."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from train.questions import (
    Exchange,
    ask,
    choose,
    colour_answer,
    count_answer,
    exists_answer,
    shape_answer,
    size_answer,
    where_answer,
)
from train.scene import COLOURS, SHAPES, Thing
from train.words import Selector, article

MAX_TURNS = 5
FOLLOW_UP_SHARE = 0.6
SYSTEMS = (
    "You are a helpful assistant.", "Answer the questions about the picture.",
    "You are a friendly assistant. Be brief.",
    "A chat between a curious human and an artificial intelligence assistant.", "Answer in one sentence.",
    "You see pictures and describe them.", "Be concise.", "You are Lavatube.",
)  # fmt: skip
BLIND_ANSWER = "I see no picture. Please send one with your question."


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns about one picture, or about none; the system text may be empty."""

    exchanges: tuple[Exchange, ...]
    system: str = ""
    has_picture: bool = True

    def messages(self) -> list[dict[str, object]]:
        """Write the turns as chat messages in content parts."""
        messages: list[dict[str, object]] = []
        if self.system:
            messages.append({"role": "system", "content": self.system})
        for turn, exchange in enumerate(self.exchanges):
            parts: list[dict[str, str]] = [{"type": "image"}] if turn == 0 and self.has_picture else []
            messages.append({"role": "user", "content": [*parts, {"type": "text", "text": exchange.question}]})
            messages.append({"role": "assistant", "content": exchange.answer})
        return messages


def sample_single(random: np.random.Generator, things: Sequence[Thing]) -> Conversation:
    """Ask one roughened question; now and then there is no picture to see."""
    exchange = _roughen(random, _ask_first(random, things))
    if random.random() < 0.015:
        blind = Exchange("blind", exchange.question, BLIND_ANSWER)
        return Conversation((blind,), has_picture=False)
    return Conversation((exchange,))


def sample_conversation(random: np.random.Generator, things: Sequence[Thing]) -> Conversation:
    """Ask two to five questions, over half of which lean on what was said."""
    exchanges = [_ask_first(random, things)]
    for _ in range(int(random.integers(1, MAX_TURNS))):
        follow_up = _follow(random, things, exchanges[-1]) if random.random() < FOLLOW_UP_SHARE else None
        exchanges.append(follow_up or ask(random, things))
    return Conversation(tuple(_roughen(random, exchange) for exchange in exchanges))


def _ask_first(random: np.random.Generator, things: Sequence[Thing]) -> Exchange:
    if len(things) == 1 and random.random() < 0.06:
        kind = things[0].kind if things[0].kind in SHAPES else "digit" if things[0].kind.isdigit() else "letter"
        return _ask_pronoun(random, things, Selector(kind), is_plural=False)
    return ask(random, things)


def _follow(random: np.random.Generator, things: Sequence[Thing], last: Exchange) -> Exchange | None:
    """Ask what only makes sense after the last question; None where nothing does."""
    selector = last.selector
    if selector is None:
        return None
    number = len(selector.choose(things))
    is_named = selector != Selector()
    if is_named and number > 0 and random.random() < 0.6:
        return _ask_pronoun(random, things, selector, is_plural=number > 1)
    return _ask_again(random, things, last.topic)


def _ask_pronoun(
    random: np.random.Generator, things: Sequence[Thing], selector: Selector, *, is_plural: bool
) -> Exchange:
    it, verb = ("they", "are") if is_plural else ("it", "is")
    colour = choose(random, ("colour", "color"))
    also = choose(random, ("", "", "And ", "and "))
    choices = [
        ("where", where_answer, (f"Where {verb} {it}?", f"{also}where {verb} {it}?", f"Where {verb} {it} here?")),
    ]
    if selector.colour is None:
        wordings = (f"What {colour} {verb} {it}?", f"{also}what {colour} {verb} {it}?", f"Which {colour} {verb} {it}?")
        choices += [("colour", colour_answer, wordings)] * 2
    if selector.kind is None:
        wordings = (f"What shape {verb} {it}?", f"Which shape {verb} {it}?", f"What {verb} {it}?")
        choices += [("shape", shape_answer, wordings)] * 2
    if selector.size is None and selector.kind not in ("letter", "digit", None):
        wordings = (f"How big {verb} {it}?", f"What size {verb} {it}?", f"{also}how large {verb} {it}?")
        choices.append(("size", size_answer, wordings))
    topic, answer, wordings = choose(random, choices)
    return Exchange(topic, choose(random, wordings), answer(things, selector), selector)


def _ask_again(random: np.random.Generator, things: Sequence[Thing], topic: str) -> Exchange | None:
    """Ask the same of something else: "And the squares?"."""
    if topic in ("count", "colour", "where", "yes/no"):
        kind = choose(random, things).kind if random.random() < 0.5 else choose(random, SHAPES)
        selector = Selector(kind if kind in SHAPES else choose(random, SHAPES))
        if topic != "colour" and random.random() < 0.3:
            selector = Selector(selector.kind, choose(random, COLOURS))
    elif topic == "shape":
        selector = Selector(colour=choose(random, things).colour if random.random() < 0.7 else choose(random, COLOURS))
    else:
        return None
    one, many = selector.words(), selector.words(is_plural=True)
    if topic == "count":
        wordings: tuple[str, ...] = (f"And how many {many}?", f"And {many}?", f"How many {many}?", f"and the {many}?")
        return Exchange(topic, choose(random, wordings), count_answer(things, selector), selector)
    if topic == "yes/no":
        wordings = (f"And {article(one)}?", f"Is there also {article(one)}?", f"And is there {article(one)}?")
        return Exchange(topic, choose(random, wordings), exists_answer(things, selector), selector)
    answer = {"colour": colour_answer, "where": where_answer, "shape": shape_answer}[topic]
    wordings = (f"And the {one}?", f"and the {one}?", f"What about the {one}?")
    return Exchange(topic, choose(random, wordings), answer(things, selector), selector)


def _roughen(random: np.random.Generator, exchange: Exchange) -> Exchange:
    return Exchange(exchange.topic, roughen(random, exchange.question), exchange.answer, exchange.selector)


def roughen(random: np.random.Generator, text: str) -> str:
    """Change case, drop the closing mark, or slip a finger, as people do."""
    if random.random() < 0.25 and len(text) > 1:
        text = text.rstrip("?.!") or text
    if random.random() < 0.02 and len(text) > 12:
        place = int(random.integers(1, len(text) - 1))
        text = text[:place] + text[place + 1 :]
    style = random.random()
    if style < 0.08:
        return text.upper()
    if style < 0.33:
        return text.lower()
    return text
