import ctypes
import mmap

import pytest

from lavatube.weights.buffer import new_buffer


@pytest.mark.parametrize("size_bytes", [1, mmap.PAGESIZE + 1, 1 << 20])
def test_begins_on_a_page(size_bytes: int) -> None:
    buffer = new_buffer(size_bytes)
    assert len(buffer) == size_bytes
    assert not buffer.readonly
    assert ctypes.addressof(ctypes.c_char.from_buffer(buffer)) % mmap.PAGESIZE == 0
