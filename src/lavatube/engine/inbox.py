"""What one stream has to say that nobody has taken yet. Whoever is late takes more at once, and never less in all."""

from __future__ import annotations

import asyncio
from collections import deque

from lavatube.engine.wire import RequestEvent, Tokens
from lavatube.errors import LavatubeError


class Inbox:
    """A queue with one taker. Tokens of one choice that follow each other are put together while they wait."""

    def __init__(self) -> None:
        self._items: deque[RequestEvent | LavatubeError] = deque()
        self._taker: asyncio.Future[None] | None = None

    def put(self, item: RequestEvent | LavatubeError) -> None:
        last = self._items[-1] if self._items else None
        if isinstance(last, Tokens) and isinstance(item, Tokens) and last.choice == item.choice:
            last.token_ids.extend(item.token_ids)
            last.logprobs.extend(item.logprobs)
            return
        self._items.append(item)
        if self._taker is not None and not self._taker.done():
            self._taker.set_result(None)

    async def take(self) -> RequestEvent | LavatubeError:
        """The next, when it is there."""
        while not self._items:
            self._taker = asyncio.get_running_loop().create_future()
            await self._taker
        return self._items.popleft()
