"""Who is calling: a request's Authorization header → a Caller in `request.state.caller`, or 401.

Keys are the operator's own (a setting) and those of the database, which are read anew every few seconds, so that a key
that is revoked opens nothing from then on.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from lavatube.errors import Forbidden, Unauthorized
from lavatube.predictions.keys import ApiKey, digest_of, id_of
from lavatube.predictions.owners import NO_LIMITS, OPERATOR, OwnerLimits
from lavatube.serve.health import PROBE_PATHS
from lavatube.serve.playground import PLAYGROUND_PATH

logger = logging.getLogger(__name__)

STREAM_PATHS: Final = "/v1/streams/"  # the URL itself is the key: nobody can guess it
REFRESH_S: Final = 2.0
NOBODY: Final = digest_of(b"what an unknown key is compared with, so that it takes as long as a known one")


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever sent a request. `id` owns what they make; "" is the operator, and everybody where no key is asked for."""

    id: str
    name: str
    limits: OwnerLimits = NO_LIMITS
    is_operator: bool = False


ANYBODY: Final = Caller(OPERATOR, "anybody")
THE_OPERATOR: Final = Caller(OPERATOR, "operator", is_operator=True)


class Keyring:
    """The keys in force. `read` gives those of the database; it blocks. `defaults` are for what a key leaves open."""

    def __init__(
        self,
        operator_key: str = "",
        read: Callable[[], list[ApiKey]] | None = None,
        defaults: OwnerLimits = NO_LIMITS,
    ) -> None:
        self._operator_digest = digest_of(operator_key.encode()) if operator_key else None
        self._read = read
        self._defaults = defaults
        self._keys: dict[str, ApiKey] = {}
        self._callers: dict[str, Caller] = {}

    @property
    def is_asking(self) -> bool:
        """Whether a key is needed. One that was revoked is no reason to let everybody in."""
        return self._operator_digest is not None or bool(self._keys)

    @property
    def num_valid(self) -> int:
        return len(self._callers) + (self._operator_digest is not None)

    def caller(self, authorization: Sequence[bytes]) -> Caller | None:
        """Who sent these header values; None for nobody known."""
        if not self.is_asking:
            return ANYBODY
        if len(authorization) != 1:
            return None
        scheme, _, text = authorization[0].partition(b" ")
        text = text.strip()
        if scheme.lower() != b"bearer":
            return None
        # Digests of bytes are compared: equal lengths, no text that could fail to compare, no early end.
        digest, key = digest_of(text), self._keys.get(id_of(text))
        is_operator = hmac.compare_digest(digest, self._operator_digest or NOBODY)
        is_known = hmac.compare_digest(digest, key.digest if key else NOBODY)
        if is_operator and self._operator_digest is not None:
            return THE_OPERATOR
        return self._callers.get(key.id) if key is not None and is_known else None

    def limits_of(self, owner: str) -> OwnerLimits:
        """Also of a key that was revoked while it had something running."""
        key = self._keys.get(owner)
        return self._defaults if key is None else _filled(key.limits, self._defaults)

    def refresh(self) -> None:
        """Read the database. Blocks."""
        if self._read is not None:
            self._take(self._read())

    async def keep_fresh(self) -> None:
        """For ever. While the database can't be read, the keys stay as they were."""
        while self._read is not None:
            await asyncio.sleep(REFRESH_S)
            try:
                self._take(await asyncio.to_thread(self._read))
            except SQLAlchemyError as error:
                logger.warning("the API keys can't be read (%s); they stay as they were", type(error).__name__)

    def _take(self, keys: list[ApiKey]) -> None:
        for key in keys:
            known = self._keys.get(key.id)
            if known is None or known.is_valid != key.is_valid:
                logger.info("API key %s (%s): %s", key.name, key.id, "valid" if key.is_valid else "revoked")
        self._keys |= {key.id: key for key in keys}
        self._callers = {
            key.id: Caller(key.id, key.name, _filled(key.limits, self._defaults), key.is_operator)
            for key in keys
            if key.is_valid
        }


class KeyCheck:
    """ASGI middleware: without a key, the page that can be told one, and the probes without details (`is_stranger`).

    Decided on the path that the router will match, never on a URL that was put together from headers.
    """

    def __init__(self, app: ASGIApp, keyring: Keyring) -> None:
        self._app = app
        self._keyring = keyring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            caller = self._keyring.caller([value for name, value in scope["headers"] if name == b"authorization"])
            path = scope["path"]
            is_open = path in PROBE_PATHS or path == PLAYGROUND_PATH or path.startswith(STREAM_PATHS)
            if caller is None and not is_open:
                raise Unauthorized(
                    "The key is missing or wrong.", param="authorization", remedy="Send Authorization: Bearer KEY."
                )
            state = scope.setdefault("state", {})
            state["caller"], state["is_stranger"] = caller, caller is None
        await self._app(scope, receive, send)


def caller_of(request: Request) -> Caller:
    """Of a request that has passed the check."""
    caller: Caller = request.state.caller
    return caller


def check_operator(request: Request) -> None:
    """For what is about the server and not about the caller's own. Raises: Forbidden."""
    caller = caller_of(request)
    if caller is not ANYBODY and not caller.is_operator:
        raise Forbidden("This key may not do that.", remedy="Use the operator's, or one made with --operator.")


def _filled(limits: OwnerLimits, defaults: OwnerLimits) -> OwnerLimits:
    return OwnerLimits(
        max_streams=limits.max_streams or defaults.max_streams,
        requests_per_minute=limits.requests_per_minute or defaults.requests_per_minute,
        tokens_per_minute=limits.tokens_per_minute or defaults.tokens_per_minute,
        weight=limits.weight,
        priority=limits.priority,
    )
