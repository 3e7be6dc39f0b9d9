"""data: URLs are taken strictly, within the limit, and without holding the interpreter for long."""

from __future__ import annotations

import base64
import threading
import time

import pytest

from lavatube.errors import ImageTooLarge, InvalidImageUrl
from lavatube.prompt.data_url import decode_data_url

DATA = bytes(range(256)) * 3
BASE64 = base64.b64encode(DATA).decode()


@pytest.mark.parametrize(
    "head",
    ["data:image/png;base64", "data:;base64", "DATA:IMAGE/PNG;BASE64", "data:image/svg+xml;charset=utf-8;base64"],
)
def test_heads_that_are_taken(head: str) -> None:
    assert decode_data_url(f"{head},{BASE64}", 1000) == DATA


@pytest.mark.parametrize(
    "url",
    [
        "data:",
        "data:,",
        "data:image/png;base64",
        "data:image/png;base64,",
        "data:image/png,abc",
        "data:text;base64," + BASE64,
        "data:image/png;base64,@@@@",
        "data:image/png;base64,QUJD\n",
        "data:image/png;base64,QUI",
        "data:image/png;base64,QQ==QUJD",
        "data:image/png;base64,-_-_",
        "data:image/png;base64,QUJé",
        "data:image/png;base64,%2B%2B%2B%2B",
        "data:image/png;" + "a=b;" * 100 + "base64,QUJD",
    ],
)
def test_what_is_no_strict_data_url(url: str) -> None:
    with pytest.raises(InvalidImageUrl):
        decode_data_url(url, 1000)


def test_size_is_checked_before_decoding() -> None:
    assert decode_data_url("data:;base64," + base64.b64encode(b"x" * 1000).decode(), 1000) == b"x" * 1000
    with pytest.raises(ImageTooLarge):
        decode_data_url("data:;base64," + "@" * 10_000, 1000)


def test_other_threads_get_their_turn_while_a_long_one_is_decoded() -> None:
    url = "data:;base64," + "QUJD" * 5_000_000
    gaps, done = [], threading.Event()

    def tick() -> None:
        last = time.perf_counter()
        while not done.is_set():
            time.sleep(0.001)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    ticker = threading.Thread(target=tick)
    ticker.start()
    assert len(decode_data_url(url, 1 << 30)) == 15_000_000
    done.set()
    ticker.join()
    assert len(gaps) > 3


@pytest.mark.parametrize("kind", ["", "image/png", "application/octet-stream", "application/postscript"])
def test_the_type_is_not_believed(kind: str) -> None:
    same = decode_data_url(f"data:image/png;base64,{BASE64}", 1000)
    assert decode_data_url(f"data:{kind};base64,{BASE64}", 1000) == same
