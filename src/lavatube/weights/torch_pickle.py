"""The pickle of a dictionary of tensors in, plain values out: parsed, and never executed.

A pickle is a program that can import and call anything. This machine knows the few instructions and names that a
dictionary of tensors needs, builds plain values for them, imports nothing and calls nothing; whatever else stands in it
is refused by its name.

Source: torch 2.13 `torch/_utils.py` (`_rebuild_tensor_v2`); PEP 307 for pickle protocol 2.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Final, NoReturn

from lavatube.errors import UnsupportedCheckpoint
from lavatube.weights.headers import ITEM_BYTES
from lavatube.weights.zip_directory import Record

MAX_INSTRUCTIONS: Final = 1_000_000
"""A tensor takes some twenty-five, and the largest checkpoints of this kind have a few thousand tensors."""
MAX_STACK: Final = 10_000
"""Pickle hands over a dictionary in batches of a thousand; a deeper stack is an attack on memory."""

STORAGES: Final = {
    "torch.DoubleStorage": "F64", "torch.FloatStorage": "F32", "torch.HalfStorage": "F16",
    "torch.BFloat16Storage": "BF16", "torch.LongStorage": "I64", "torch.IntStorage": "I32",
    "torch.ShortStorage": "I16", "torch.CharStorage": "I8", "torch.ByteStorage": "U8", "torch.BoolStorage": "BOOL",
}  # fmt: skip
_ORDERED_DICT: Final = "collections.OrderedDict"
_TENSOR: Final = "torch._utils._rebuild_tensor_v2"
_PARAMETER: Final = "torch._utils._rebuild_parameter"
_NAMES: Final = {_ORDERED_DICT, _TENSOR, _PARAMETER, *STORAGES}


@dataclass(frozen=True, slots=True)
class _Name:
    """What would be imported."""

    name: str


@dataclass(frozen=True, slots=True)
class _Storage:
    """A record of numbers, which several tensors may share."""

    record: Record
    dtype: str


@dataclass(frozen=True, slots=True)
class SavedTensor:
    """A contiguous part of a storage, counted in items."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]


class _Mark:
    """Where on the stack a tuple or a batch of a dictionary begins."""


_MARK: Final = _Mark()


class Machine:
    """The pickle machine without its teeth: a stack and a memo of plain values."""

    def __init__(self, storages: dict[str, Record], where: str) -> None:
        self._storages = storages
        self._where = where
        self._stack: list[object] = []
        self._memo: dict[int, object] = {}

    def run(self, data: bytes) -> dict[object, object]:
        """Raises: UnsupportedCheckpoint for anything but a dictionary."""
        stream = BytesIO(data)
        try:
            for count, (instruction, argument, _) in enumerate(pickletools.genops(stream)):
                self._step(instruction.name, argument)
                if count >= MAX_INSTRUCTIONS or len(self._stack) > MAX_STACK:
                    self._refuse("more instructions, or a deeper stack, than any model needs")
        except ValueError as error:  # what is no pickle at all; genops decodes, and does nothing more
            raise UnsupportedCheckpoint(f"{self._where}: its data.pkl is damaged: {error!s:.200}.") from error
        state = self._pop()
        if self._stack or stream.tell() != len(data) or not isinstance(state, dict):
            self._refuse("something other than one dictionary of tensors")
        return state

    def _step(self, name: str, argument: object) -> None:
        if name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _PUSHES:
            self._stack.append(argument)
        elif name in _PUTS and isinstance(argument, int):
            self._memo[argument] = self._top()
        elif name in _GETS and isinstance(argument, int):
            if argument not in self._memo:
                self._refuse("a value that was never stored")
            self._stack.append(self._memo[argument])
        elif name in _TUPLES:
            self._stack.append(tuple(reversed([self._pop() for _ in range(_TUPLES[name])])))
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        elif name not in ("PROTO", "STOP"):
            self._refuse(f"the instruction {name}")

    def _empty_dict(self, _: object) -> None:
        self._stack.append({})

    def _global(self, argument: object) -> None:
        name = str(argument).replace(" ", ".")
        if name not in _NAMES:
            self._refuse(f"the name {name!r:.200}")
        self._stack.append(_Name(name))

    def _tuple(self, _: object) -> None:
        self._stack.append(tuple(self._pop_to_mark()))

    def _set_item(self, _: object) -> None:
        value, key = self._pop(), self._pop()
        self._update([key, value])

    def _set_items(self, _: object) -> None:
        self._update(self._pop_to_mark())

    def _update(self, items: list[object]) -> None:
        target = self._top()
        if not isinstance(target, dict) or len(items) % 2 or not all(isinstance(key, str) for key in items[::2]):
            self._refuse("a dictionary with keys that are no names")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if key in target:
                self._refuse(f"two values for {key!r:.200}")
            target[key] = value

    def _persistent(self, _: object) -> None:
        match self._pop():
            case ("storage", _Name(name), str(key), str(), int(count)) if name in STORAGES and key in self._storages:
                record, dtype = self._storages[key], STORAGES[name]
                if record.size_bytes != count * ITEM_BYTES[dtype]:
                    self._refuse(f"a storage {key!r:.40} of another length than its record")
                self._stack.append(_Storage(record, dtype))
            case _:
                self._refuse("a storage that is not in the file")

    def _reduce(self, _: object) -> None:
        arguments, function = self._pop(), self._pop()
        match function, arguments:
            case _Name(name="collections.OrderedDict"), ():
                self._stack.append({})
            case _Name(name="torch._utils._rebuild_tensor_v2"), (_Storage() as storage, int(offset), shape, stride, *_):
                self._stack.append(self._tensor(storage, offset, shape, stride))
            case _Name(name="torch._utils._rebuild_parameter"), (SavedTensor() as tensor, *_):
                self._stack.append(tensor)
            case _:
                self._refuse("a call with other arguments than torch gives")

    def _build(self, _: object) -> None:
        """What a dictionary of torch carries as attributes: the versions of its modules. Nobody needs them."""
        attributes = self._pop()
        if not isinstance(self._top(), dict) or not isinstance(attributes, dict) or set(attributes) - {"_metadata"}:
            self._refuse("an object with attributes")

    def _tensor(self, storage: _Storage, offset: int, shape: object, stride: object) -> SavedTensor:
        if not _are_counts(shape) or not _are_counts(stride) or not isinstance(shape, tuple) or offset < 0:
            self._refuse("a tensor of an impossible shape")
        if not _is_contiguous(shape, stride):
            self._refuse("a tensor that is not contiguous")
        return SavedTensor(storage, offset, shape)

    def _top(self) -> object:
        if not self._stack or self._stack[-1] is _MARK:
            self._refuse("fewer values than its instructions need")
        return self._stack[-1]

    def _pop(self) -> object:
        self._top()
        return self._stack.pop()

    def _pop_to_mark(self) -> list[object]:
        items: list[object] = []
        while self._stack and self._stack[-1] is not _MARK:
            items.append(self._stack.pop())
        if not self._stack:
            self._refuse("fewer values than its instructions need")
        self._stack.pop()
        return items[::-1]

    def _refuse(self, what: str) -> NoReturn:
        raise UnsupportedCheckpoint(
            f"{self._where} has {what} in its pickle; only a plain dictionary of tensors is read, and nothing is run.",
            remedy="Use a conversion of the model that has .safetensors files.",
        )


_CONSTANTS: Final = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": (), "MARK": _MARK}
_PUSHES: Final = {"BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1"}
_PUTS: Final = {"BINPUT", "LONG_BINPUT"}
_GETS: Final = {"BINGET", "LONG_BINGET"}
_TUPLES: Final = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_ACTIONS: Final[dict[str, Callable[[Machine, object], None]]] = {
    "EMPTY_DICT": Machine._empty_dict,
    "GLOBAL": Machine._global,
    "TUPLE": Machine._tuple,
    "SETITEM": Machine._set_item,
    "SETITEMS": Machine._set_items,
    "BINPERSID": Machine._persistent,
    "REDUCE": Machine._reduce,
    "BUILD": Machine._build,
}


def _are_counts(values: object) -> bool:
    return (
        isinstance(values, tuple)
        and len(values) <= 16
        and all(type(value) is int and 0 <= value < 1 << 48 for value in values)
    )


def _is_contiguous(shape: tuple[int, ...], stride: object) -> bool:
    """Row-major; the stride of an edge of one says nothing, and an empty tensor has no order at all."""
    assert isinstance(stride, tuple)
    expected, steps = 1, 0
    if len(shape) != len(stride):
        return False
    for edge, step in zip(reversed(shape), reversed(stride), strict=True):
        steps += edge != 1 and step != expected
        expected *= edge
    return steps == 0 or 0 in shape
