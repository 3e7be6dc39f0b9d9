"""The form that an answer must have → a grammar for the engine, or the reason why not.

The library that knows grammars is an optional extra, and runs in a child (structure_child.py); nothing here imports it.
"""

from __future__ import annotations

import importlib.util
import threading
from collections import OrderedDict
from typing import Final

import msgspec

from lavatube.errors import InvalidInput, Overloaded
from lavatube.prompt.chat import Structure
from lavatube.prompt.sandbox import SandboxBusy, SandboxError, SandboxLimits, SandboxPool

MAX_TEXT_CHARS: Final = 65536
MAX_REMEMBERED: Final = 32
LIMITS: Final = SandboxLimits(memory_limit_bytes=1024 * 1024 * 1024, cpu_limit_s=0.5, wall_limit_s=10.0)
REMEDY: Final = "Ask for a simpler structure."
_CHILD: Final = "lavatube.prompt.structure_child"


class Wanted(msgspec.Struct, frozen=True):
    """`kind` is that of a Structure. With `may_begin_with_space` the text will lose that space."""

    kind: str
    text: str
    may_begin_with_space: bool


class Built(msgspec.Struct, frozen=True, tag="built"):
    grammar: str


class Unusable(msgspec.Struct, frozen=True, tag="unusable"):
    """Why there is no grammar, as far as the library says."""

    reason: str


BuildReply = Built | Unusable

encoder: Final = msgspec.msgpack.Encoder()
wanted_decoder: Final = msgspec.msgpack.Decoder(Wanted)
reply_decoder: Final[msgspec.msgpack.Decoder[BuildReply]] = msgspec.msgpack.Decoder(BuildReply)


def can_build() -> bool:
    """Whether the library is installed."""
    return importlib.util.find_spec("llguidance") is not None


class GrammarBuilder:
    """Builds grammars for one tokenizer, and remembers the last few. Any thread may ask.

    `may_begin_with_space`: the text of an answer loses the space that its first token begins with.
    """

    def __init__(self, *, may_begin_with_space: bool, limits: SandboxLimits = LIMITS) -> None:
        self._may_begin_with_space = may_begin_with_space
        self._limits = limits
        self._lock = threading.Lock()  # of the two below
        self._pool: SandboxPool | None = None
        self._built: OrderedDict[tuple[str, str], str] = OrderedDict()

    def build(self, structure: Structure) -> str:
        """Raises: InvalidInput for a structure that can't be had; Overloaded."""
        if not can_build():
            raise InvalidInput(
                "This server can't keep an answer to a structure.",
                param=structure.param,
                remedy="Leave it out, or have lavatube[structured] installed there.",
            )
        if len(structure.text) > MAX_TEXT_CHARS:
            raise InvalidInput(f"It is longer than {MAX_TEXT_CHARS} characters.", param=structure.param, remedy=REMEDY)
        key = (structure.kind, structure.text)
        with self._lock:
            if key in self._built:
                self._built.move_to_end(key)
                return self._built[key]
        grammar = self._ask(structure)
        with self._lock:
            self._built[key] = grammar
            if len(self._built) > MAX_REMEMBERED:
                self._built.popitem(last=False)
        return grammar

    def close(self) -> None:
        with self._lock:
            if self._pool is not None:
                self._pool.close()

    def _ask(self, structure: Structure) -> str:
        """One question to the child; the first one starts it."""
        with self._lock:
            self._pool = self._pool or SandboxPool(_CHILD, 1, self._limits)
        wanted = Wanted(structure.kind, structure.text, self._may_begin_with_space)
        try:
            reply = reply_decoder.decode(self._pool.ask(encoder.encode(wanted)))
        except SandboxBusy:
            raise Overloaded("Too many structures wait to be read.", remedy="Try again.", retry_after_s=5) from None
        except (SandboxError, msgspec.DecodeError):
            message = f"The structure takes too long or too much to read ({self._limits.cpu_limit_s:g} s are allowed)."
            raise InvalidInput(message, param=structure.param, remedy=REMEDY) from None
        if isinstance(reply, Unusable):
            raise InvalidInput(
                f"The structure can't be kept: {reply.reason}.",
                param=structure.param,
                remedy="Leave that part of it out.",
            )
        return reply.grammar
