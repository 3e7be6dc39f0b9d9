"""What a person sees of a pull: a bar on a terminal, and nothing elsewhere."""

from __future__ import annotations

import os
import pty
import sys

import pytest

from lavatube.terminal import progress_bar
from lavatube.weights.progress import Progress

MIB = 1024 * 1024


def test_the_bar_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as screen:
        monkeypatch.setattr(sys, "stderr", screen)
        with progress_bar() as on_progress:
            on_progress(Progress("resolving"))
            on_progress(Progress("fetching", 50 * MIB, 100 * MIB, 10 * MIB))
        screen.write("\N{END OF TEXT}")
        screen.flush()
        drawn = ""
        while not drawn.endswith("\N{END OF TEXT}"):  # what was written in parts may come in parts
            drawn += os.read(leader, 1 << 16).decode()
    os.close(leader)
    assert "fetching" in drawn
    assert "50.0 of 100.0 MiB, 10.0 MiB/s, 0:00:05 left" in drawn


def test_there_is_none_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar() as on_progress:
        on_progress(Progress("fetching", 50 * MIB, 100 * MIB))
    assert capsys.readouterr() == ("", "")
