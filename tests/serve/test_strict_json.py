"""What counts as JSON here."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavatube.errors import InvalidJson
from lavatube.serve.strict_json import MAX_DEPTH, MAX_VALUES, parse_json

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=12,
)


@given(value=JSON_VALUES, ensure_ascii=st.booleans(), indent=st.sampled_from([None, 1]))
def test_whatever_is_json_is_read_as_it_was_meant(value: object, ensure_ascii: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)
    assert parse_json(text.encode()) == value


@given(raw=st.binary(max_size=60))
def test_whatever_is_not_is_refused(raw: bytes) -> None:
    try:
        value = parse_json(raw)
    except InvalidJson:
        return
    assert json.loads(raw.decode()) == value


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" \n",
        b'{"a": NaN}',
        b"[Infinity]",
        b"[-Infinity]",
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-16"),
        b'"\\ud800"',
        b'"\xed\xa0\x80"',
        b'"\xff"',
        b'{"a":1,}',
        b"{'a':1}",
        b"[01]",
        b"{} {}",
        b'{"a":1,"a":1}',
        b'{"x":{"a" :1, "\\u0061":2}}',
        b'[{"a":1,"b":"\\":\\":","a":2}]',
        b"[" * (MAX_DEPTH + 1) + b"1" + b"]" * (MAX_DEPTH + 1),
        b"[" * 100_000,
        b"1" * 5_000,
    ],
)
def test_refused(raw: bytes) -> None:
    with pytest.raises(InvalidJson):
        parse_json(raw)


def test_the_deepest_and_a_text_full_of_keys_are_read() -> None:
    deep = b"[" * MAX_DEPTH + b"1" + b"]" * MAX_DEPTH
    assert parse_json(deep)
    assert parse_json(b'{"a":"\\":1,\\"a\\":2"}') == {"a": '":1,"a":2'}


def test_values_are_counted_not_their_marks_in_texts() -> None:
    assert parse_json(b'{"a":"' + b"," * 60_000 + b'"}') == {"a": "," * 60_000}
    assert parse_json(b"[" + b"0," * (MAX_VALUES - 1) + b"0]")
    with pytest.raises(InvalidJson, match="values"):
        parse_json(b"[" + b"0," * MAX_VALUES + b"0]")


@pytest.mark.parametrize(
    "body", [b"[" + b"0," * 300_000 + b"0]", b"[" + b"[]," * 300_000 + b"0]", b'{"a":"' + b'\\":' * 2**20 + b'"}']
)
def test_very_many_small_values_are_refused_before_they_are_objects(body: bytes) -> None:
    with pytest.raises(InvalidJson, match="values"):
        parse_json(body)
