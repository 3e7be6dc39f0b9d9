"""What the journal keeps of a prediction, as bytes: the request, the pieces of its answer, its state. Values only.

MessagePack through msgspec, as on the wire. The structs here are the stored form: a field may be added with a default,
but none may change its meaning without a new version of the database.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from lavatube.errors import LavatubeError, from_code
from lavatube.geometry import Detail
from lavatube.predictions.events import FinishReason, Status, TokenLogprob, Usage
from lavatube.predictions.prediction import Prediction
from lavatube.predictions.webhook import Webhook
from lavatube.prompt.chat import Chat, Generation, ImageInput, Part, Role, Text, Turn
from lavatube.prompt.prepare import Prepared


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """A piece of one answer and the tokens that it took; or, with a `reason`, the end of that answer."""

    choice: int
    token_ids: list[int]
    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked, before anything is made of it; and `attachments`, by name, which are kept with the prediction."""

    chat: Chat
    generation: Generation
    attachments: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Row:
    """One prediction as the database has it. Times: Unix seconds. `request` is empty once it has ended.

    `deaths`: how many servers in a row died while it was in the engine and before it had written another word.
    """

    key: str
    id: str
    owner: str
    origin: str
    created_s: float
    status: str
    holder: str | None
    is_cancelled: bool
    deaths: int
    header: bytes
    request: bytes
    state: bytes


class _Header(msgspec.Struct, frozen=True):
    """What never changes."""

    fingerprint: bytes
    is_kept: bool
    num_choices: int
    details: dict[str, Any]
    webhook: Webhook | None
    cancel_at_s: float | None = None


class _Error(msgspec.Struct, frozen=True):
    code: str
    message: str
    param: str | None
    remedy: str
    retry_after_s: int | None


class _State(msgspec.Struct, frozen=True):
    """How far it is. Times: Unix seconds."""

    usage: Usage = Usage()
    started_s: float | None = None
    first_output_s: float | None = None
    completed_s: float | None = None
    finish_reasons: list[FinishReason | None] = []
    error: _Error | None = None


class _Words(msgspec.Struct, frozen=True, tag="text"):
    text: str


class _Picture(msgspec.Struct, frozen=True, tag="image"):
    """Its file or its URL."""

    file: bytes | None
    url: str | None
    param: str
    detail: Detail


class _Turn(msgspec.Struct, frozen=True):
    role: Role
    parts: list[_Words | _Picture]


class _Asked(msgspec.Struct, frozen=True, tag="asked"):
    turns: list[_Turn]
    generation: Generation


class _Ready(msgspec.Struct, frozen=True, tag="prepared"):
    prepared: Prepared


_encoder: Final = msgspec.msgpack.Encoder()
_requests: Final[msgspec.msgpack.Decoder[_Asked | _Ready]] = msgspec.msgpack.Decoder(_Asked | _Ready)
_headers: Final = msgspec.msgpack.Decoder(_Header)
_states: Final = msgspec.msgpack.Decoder(_State)
_pieces: Final = msgspec.msgpack.Decoder(list[Piece])


def encode_pieces(pieces: Sequence[Piece]) -> bytes:
    return _encoder.encode(pieces)


def decode_pieces(bodies: Iterable[bytes]) -> list[Piece]:
    return [piece for body in bodies for piece in _pieces.decode(body)]


def encode_request(request: Request | Prepared) -> bytes:
    """Once it is prepared no picture is fetched again, and nothing can come out differently."""
    if isinstance(request, Prepared):
        return _encoder.encode(_Ready(request))
    turns = [_Turn(turn.role, [_stored(part) for part in turn.parts]) for turn in request.chat.turns]
    return _encoder.encode(_Asked(turns, request.generation))


def decode_request(body: bytes) -> Request | Prepared:
    stored = _requests.decode(body)
    if isinstance(stored, _Ready):
        return stored.prepared
    turns = tuple(Turn(turn.role, tuple(_part(part) for part in turn.parts)) for turn in stored.turns)
    return Request(Chat(turns), stored.generation)


def encode_header(prediction: Prediction) -> bytes:
    return _encoder.encode(
        _Header(
            prediction.fingerprint,
            prediction.is_kept,
            prediction.num_choices,
            dict(prediction.details),
            prediction.webhook,
            _unix_s(prediction.cancel_at),
        )
    )


def encode_state(prediction: Prediction) -> bytes:
    error = prediction.error
    state = _State(
        prediction.usage,
        _unix_s(prediction.started_at),
        None if prediction.first_output is None else time.time() - time.monotonic() + prediction.first_output,
        _unix_s(prediction.completed_at),
        prediction.finish_reasons,
        None if error is None else _Error(error.code, error.message, error.param, error.remedy, error.retry_after_s),
    )
    return _encoder.encode(state)


def restore(row: Row, pieces: Sequence[Piece]) -> Prediction:
    """The prediction as it was: the same events with the same ids."""
    header = _headers.decode(row.header)
    prediction = Prediction(
        row.id,
        key=row.key,
        fingerprint=header.fingerprint,
        is_detached=True,  # whoever waited for it has lost the connection
        is_kept=header.is_kept,
        is_journaled=True,
        owner=row.owner,
        origin=row.origin,
        details=header.details,
        webhook=header.webhook,
        cancel_at=None if header.cancel_at_s is None else datetime.fromtimestamp(header.cancel_at_s, UTC),
        num_choices=header.num_choices,
    )
    prediction.created_at, prediction.created = _moment(row.created_s)
    catch_up(prediction, row, pieces)
    return prediction


def catch_up(prediction: Prediction, row: Row, pieces: Iterable[Piece]) -> None:
    """Let it be what it has become: `pieces` are those that it does not have yet."""
    state = _states.decode(row.state)
    if prediction.started is None and state.started_s is not None:
        prediction.start(state.usage.prompt_tokens, state.usage.image_tokens)
        prediction.started_at, prediction.started = _moment(state.started_s)
    for piece in pieces:
        if piece.reason is not None:
            prediction.end_choice(piece.choice, piece.reason)
        else:
            prediction.write(piece.text, piece.choice, piece.logprobs)
    if state.first_output_s is not None:
        _, prediction.first_output = _moment(state.first_output_s)
    if (status := Status(row.status)).is_terminal:
        _end(prediction, status, state)


def _end(prediction: Prediction, status: Status, state: _State) -> None:
    prediction.usage = state.usage
    prediction.finish_reasons = state.finish_reasons
    match status:
        case Status.SUCCEEDED:
            prediction.succeed(state.usage)
        case Status.FAILED:
            prediction.fail(_error(state.error))
        case _:
            prediction.cancel()
    prediction.publish()
    assert state.completed_s is not None
    prediction.completed_at, prediction.completed = _moment(state.completed_s)


def _error(stored: _Error | None) -> LavatubeError:
    assert stored is not None
    error = from_code(stored.code, stored.message, param=stored.param, remedy=stored.remedy)
    error.retry_after_s = stored.retry_after_s
    return error


def _stored(part: Part) -> _Words | _Picture:
    if isinstance(part, Text):
        return _Words(part.text)
    if isinstance(part.source, bytes):
        return _Picture(part.source, None, part.param, part.detail)
    return _Picture(None, part.source, part.param, part.detail)


def _part(part: _Words | _Picture) -> Part:
    if isinstance(part, _Words):
        return Text(part.text)
    source = part.url if part.file is None else part.file
    assert source is not None
    return ImageInput(source, part.param, part.detail)


def _unix_s(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


def _moment(unix_s: float) -> tuple[datetime, float]:
    """The same moment for people and, as far as the clock was never put, for differences."""
    return datetime.fromtimestamp(unix_s, UTC), time.monotonic() - (time.time() - unix_s)
