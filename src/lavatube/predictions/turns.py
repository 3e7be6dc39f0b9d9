"""Whose turn it is: items that wait, by owner and priority → the next one, in fair shares. Pure: no clock, no tasks.

One rule on two levels, stride scheduling: first a priority is picked, then one of its owners, each as often as its
weight says; an owner's own items come in order of arrival. So nobody who waits is passed over for ever, and who was
away has saved nothing up.
Source: Waldspurger and Weihl, Stride Scheduling, MIT 1995.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

MAX_PRIORITY: Final = 4
PRIORITY_BASE: Final = 8  # turns of a priority for each turn of the next lower one

Name = TypeVar("Name", bound=Hashable)
Item = TypeVar("Item", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Claim:
    """On whose behalf something waits. `cost` is how much of the capacity it takes, and what it is charged."""

    owner: str = ""
    priority: int = 0
    weight: float = 1.0
    cost: int = 1

    @property
    def level(self) -> int:
        return max(-MAX_PRIORITY, min(MAX_PRIORITY, self.priority))


class Shares(Generic[Name]):
    """Members with a weight each; the next is the one who has had least for its weight."""

    def __init__(self) -> None:
        self._served: dict[Name, float] = {}  # what each has had, divided by its weight; of those away, only a lead
        self._members: OrderedDict[Name, float] = OrderedDict()
        self._now = 0.0

    def join(self, name: Name, weight: float) -> None:
        self._members[name] = weight
        self._served[name] = max(self._served.get(name, 0.0), self._now)

    def leave(self, name: Name) -> None:
        """Who is ahead of the others stays so until they have caught up."""
        del self._members[name]
        self._served = {
            one: served for one, served in self._served.items() if one in self._members or served > self._now
        }

    def next(self) -> Name:
        return min(self._members, key=self._served.__getitem__)

    def charge(self, name: Name, cost: float) -> None:
        self._now = max(self._now, self._served[name])
        self._served[name] += cost / self._members[name]


class Turns(Generic[Item]):
    """Items that wait."""

    def __init__(self) -> None:
        self._claims: dict[Item, Claim] = {}
        self._levels: Shares[int] = Shares()
        self._owners: dict[int, Shares[str]] = {}
        self._queues: dict[tuple[int, str], OrderedDict[Item, None]] = {}

    def __len__(self) -> int:
        return len(self._claims)

    def add(self, item: Item, claim: Claim) -> None:
        level, place = claim.level, (claim.level, claim.owner)
        if not any(known == level for known, _ in self._queues):
            self._levels.join(level, float(PRIORITY_BASE) ** level)
        if place not in self._queues:
            self._queues[place] = OrderedDict()
            self._owners.setdefault(level, Shares()).join(claim.owner, claim.weight)
        self._queues[place][item] = None
        self._claims[item] = claim

    def peek(self) -> tuple[Item, Claim]:
        """Whose turn it is. To be called only when somebody waits."""
        level = self._levels.next()
        item = next(iter(self._queues[level, self._owners[level].next()]))
        return item, self._claims[item]

    def take(self) -> Item:
        """It is no longer waiting, and has had its turn."""
        item, claim = self.peek()
        self._levels.charge(claim.level, claim.cost)
        self._owners[claim.level].charge(claim.owner, claim.cost)
        self.remove(item)
        return item

    def remove(self, item: Item) -> None:
        """It no longer waits, and has had no turn."""
        claim = self._claims.pop(item)
        place = claim.level, claim.owner
        del self._queues[place][item]
        if not self._queues[place]:
            del self._queues[place]
            self._owners[claim.level].leave(claim.owner)
            if not any(level == claim.level for level, _ in self._queues):
                self._levels.leave(claim.level)
