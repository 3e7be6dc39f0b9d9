"""A conversation in, the text that the checkpoint was trained on out: its own Jinja template, or a built-in one.

A checkpoint's template is a stranger's program. It runs in a sandboxed environment in a limited, killable child
(`template_child`), and how it wants its messages is found out by trying it once, at start-up. Texts arrive shielded
(see tokenizer.py); the only image placeholders in the output are those of the chat's pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, Protocol

import msgspec

from lavatube.errors import InternalError, InvalidInput, Overloaded, UnsupportedCheckpoint
from lavatube.prompt.chat import Chat, ImageInput, Part, Role, Text, Turn
from lavatube.prompt.conversations import Conversation, pictures_first
from lavatube.prompt.sandbox import SandboxBusy, SandboxError, SandboxLimits, SandboxPool

_CHILD: Final = "lavatube.prompt.template_child"
LIMITS: Final = SandboxLimits(memory_limit_bytes=512 * 1024 * 1024, cpu_limit_s=1.0, wall_limit_s=15.0)
# Of two lines, so that a template that merely prints a list of parts, with its escapes, is not taken to know them.
_PROBE: Final = "a question that\nno template knows"
_SYSTEM_PROBE: Final = "an instruction that\nno template knows"
_REMEDY: Final = "Use the one that the checkpoint was published with; without any, one of ours takes its place."

Content = str | list[dict[str, str]]
Form = Literal["parts", "string"]


class RenderRequest(msgspec.Struct, frozen=True):
    """`variables` are the named tokens, as in `bos_token`."""

    source: str
    messages: list[dict[str, Content]]
    variables: dict[str, str]


class Rendered(msgspec.Struct, frozen=True, tag="rendered"):
    text: str


class NotRendered(msgspec.Struct, frozen=True, tag="not_rendered"):
    """`reason` is what the template itself said with raise_exception; empty when it just failed."""

    reason: str


RenderReply = Rendered | NotRendered

request_decoder: Final = msgspec.msgpack.Decoder(RenderRequest)
_reply_decoder: Final = msgspec.msgpack.Decoder(RenderReply)
encoder: Final = msgspec.msgpack.Encoder()


class Template(Protocol):
    """What turns a chat into one string, ready for its answer. Any thread may call."""

    def render(self, chat: Chat) -> str:
        """Raises InvalidInput for a conversation that the template has no place for."""
        ...

    def close(self) -> None: ...


class BuiltIn:
    """One of the templates that the original's code has, for a checkpoint that brings none."""

    def __init__(self, conversation: Conversation, picture: str) -> None:
        self._conversation = conversation
        self._picture = picture

    def render(self, chat: Chat) -> str:
        return self._conversation.render(chat, self._picture)

    def close(self) -> None:
        """Nothing to end."""


class JinjaTemplate:
    """The checkpoint's own template; `file` is where it stands."""

    def __init__(
        self,
        source: str,
        image_token: str,
        variables: Mapping[str, str],
        limits: SandboxLimits = LIMITS,
        *,
        file: str = "chat_template.jinja",
    ) -> None:
        self._file = file
        self._source = source
        self._image_token = image_token
        self._variables = dict(variables)
        self._pool = SandboxPool(_CHILD, 1, limits)
        try:
            self._form: Form = self._find_form()
            self._has_system = self._knows_system()
        except BaseException:
            self.close()
            raise

    def render(self, chat: Chat) -> str:
        if not self._has_system and any(turn.role is Role.SYSTEM for turn in chat.turns):
            raise InvalidInput(
                "This model's chat template has no place for a system message.", remedy="Say it in the user's."
            )
        try:
            reply = self._ask(chat, self._form)
        except SandboxBusy:
            raise Overloaded(
                "Too many conversations are waiting for the chat template.",
                remedy="Try again in 5 s.",
                retry_after_s=5,
            ) from None
        except (SandboxError, msgspec.DecodeError):
            raise InternalError("The model's chat template ran for too long.") from None
        if isinstance(reply, NotRendered):
            raise InvalidInput(
                f"The model's chat template refuses this conversation: {reply.reason}"
                if reply.reason
                else "The model's chat template can't render this conversation.",
                remedy="Let user and assistant take turns, the user first.",
            )
        return reply.text

    def close(self) -> None:
        """End the child."""
        self._pool.close()

    def _find_form(self) -> Form:
        """Messages as lists of parts, or as strings: the first that brings out a picture and a question."""
        chat = Chat((Turn(Role.USER, (ImageInput(""), Text(_PROBE))),))
        for form in ("parts", "string"):
            text = self._try(chat, form)
            if text.count(self._image_token) == 1 and text.count(_PROBE) == 1:
                return form
        raise UnsupportedCheckpoint(
            f"{self._file}: the chat template can't render one picture and one question.", remedy=_REMEDY
        )

    def _knows_system(self) -> bool:
        question = Turn(Role.USER, (Text(_PROBE),))
        chat = Chat((Turn(Role.SYSTEM, (Text(_SYSTEM_PROBE),)), question))
        return _SYSTEM_PROBE in self._try(chat, self._form)

    def _try(self, chat: Chat, form: Form) -> str:
        try:
            reply = self._ask(chat, form)
        except (SandboxError, msgspec.DecodeError):
            raise UnsupportedCheckpoint(
                f"{self._file}: the chat template ran for too long, or took too much memory.", remedy=_REMEDY
            ) from None
        return reply.text if isinstance(reply, Rendered) else ""

    def _ask(self, chat: Chat, form: Form) -> RenderReply:
        messages = [_message(turn, form, self._image_token) for turn in chat.turns]
        request = RenderRequest(self._source, messages, self._variables)
        reply: RenderReply = _reply_decoder.decode(self._pool.ask(encoder.encode(request)))
        return reply


def _message(turn: Turn, form: Form, image_token: str) -> dict[str, Content]:
    content: Content = [_part(part) for part in turn.parts] if form == "parts" else pictures_first(turn, image_token)
    return {"role": turn.role.value, "content": content}


def _part(part: Part) -> dict[str, str]:
    return {"type": "text", "text": part.text} if isinstance(part, Text) else {"type": "image"}
