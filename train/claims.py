"""Reads what a reply claims and checks it against a scene. Knows nothing of models.

A reply that equals the true answer is right. Otherwise lists are compared as sets of claims, in any order, and a
claimed place is right if the centre is in that third of the picture or within 4 % of the picture's side of it.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from train.questions import Exchange, in_place, region
from train.scene import COLOURS, COLUMNS, ROWS, Thing
from train.words import NUMBERS, PLACES, noun, reading_order

TOLERANCE = 0.04
_PLACE = "|".join(sorted(PLACES.values(), key=len, reverse=True))
_ITEM = re.compile(
    rf"\b(an?|{'|'.join(NUMBERS[1:])}) (?:(small|large) )?(?:({'|'.join(COLOURS)}) )?"
    rf"(circle|square|triangle|star|digit \d|letter [A-Z])s?(?: ({_PLACE}))?"
)
Claim = tuple[str, str]


def is_right(exchange: Exchange, things: Sequence[Thing], reply: str) -> bool:
    """Tell whether every claim of the reply is true and the question is answered."""
    answer, reply = _plain(exchange.answer), _plain(reply)
    if answer == reply:
        return True
    if exchange.topic in ("describe", "other"):
        return _frame(answer) == _frame(reply) and _items(answer) == _items(reply)
    if exchange.topic == "describe in detail":
        return _frame(answer) == _frame(reply) and _is_detail_right(things, reply)
    if exchange.topic in ("shape", "size list"):
        return _frame(answer) == _frame(reply) and _items(answer) == _items(reply)
    if answer.startswith("There is no"):
        return exchange.topic == "side" and _is_side_right(exchange.answer, things, reply)
    if exchange.topic == "colour":
        return _lead(answer) == _lead(reply) and _colours(answer) == _colours(reply)
    if exchange.topic == "where" and exchange.selector:
        return _lead(answer) == _lead(reply) and _are_places_right(exchange.selector.choose(things), reply)
    if exchange.topic == "side":
        return _is_side_right(exchange.answer, things, reply)
    return False


def acceptable_places(thing: Thing) -> set[str]:
    """List the places that may be claimed for a thing, near the borders more than one."""
    rows = {_third(ROWS, thing.y + shift) for shift in (-TOLERANCE, 0, TOLERANCE)}
    columns = {_third(COLUMNS, thing.x + shift) for shift in (-TOLERANCE, 0, TOLERANCE)}
    return {PLACES[row, column] for row in rows for column in columns}


def _third(names: tuple[str, ...], fraction: float) -> str:
    return names[max(0, min(2, int(fraction * 3)))]


def _plain(text: str) -> str:
    return re.sub(r"\b(object|shape)(s?)\b", r"thing\2", text.strip())


def _frame(text: str) -> str:
    """What is left of a reply without its list."""
    return re.sub(r"[,\s]+|\band\b", " ", _ITEM.sub("", text)).split(" .")[0].strip()


def _lead(text: str) -> str:
    return re.split(r" (?:is|are) ", text)[0]


def _colours(text: str) -> set[str]:
    return set(re.findall("|".join(COLOURS), re.split(r" (?:is|are) ", text)[-1]))


def _items(text: str) -> Counter[Claim]:
    """Count what is claimed. Units: keys are (colour or "", kind)."""
    claims: Counter[Claim] = Counter()
    for number, _, colour, kind, _ in _ITEM.findall(text):
        claims[colour, kind] += NUMBERS.index(number) if number in NUMBERS else 1
    return claims


def _named(things: Iterable[Thing]) -> Counter[Claim]:
    return Counter((thing.colour, noun(thing.kind)) for thing in things)


def _is_detail_right(things: Sequence[Thing], reply: str) -> bool:
    left = list(reading_order(things))
    for number, size, colour, kind, place in _ITEM.findall(reply):
        fits = [
            thing
            for thing in left
            if (colour, kind) == (thing.colour, noun(thing.kind))
            and (thing.is_glyph or size == thing.size)
            and place in acceptable_places(thing)
        ]
        if number not in ("a", "an") or not fits:
            return False
        left.remove(fits[0])
    return not left


def _are_places_right(things: Sequence[Thing], reply: str) -> bool:
    claimed = set(re.findall(_PLACE, reply))
    allowed = [acceptable_places(thing) for thing in things]
    return (
        bool(claimed)
        and all(any(place in places for places in allowed) for place in claimed)
        and all(places & claimed for places in allowed)
    )


def _is_side_right(answer: str, things: Sequence[Thing], reply: str) -> bool:
    """Things near the border of the asked region may be named or left out."""
    match = re.search(_PLACE, answer, re.IGNORECASE)
    if match is None or match.group().lower() not in reply.lower():
        return False
    row, column = region(match.group().lower())
    near = [thing for thing in things if _may_be_in(thing, row, column)]
    sure = [thing for thing in near if in_place(thing, row, column) and len(acceptable_places(thing)) == 1]
    claimed = _items(reply)
    if not claimed and not reply.startswith("There is nothing"):
        return False
    return not (_named(sure) - claimed) and not (claimed - _named(near))


def _may_be_in(thing: Thing, row: str | None, column: str | None) -> bool:
    keys = [key for key, words in PLACES.items() if words in acceptable_places(thing)]
    return any(row in (None, key[0]) and column in (None, key[1]) for key in keys)
