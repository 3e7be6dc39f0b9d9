"""Kernels in a process of their own: what dies there, hangs or differs is not used, and the next start knows it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from lavatube.model.soundness import sound_kernels
from lavatube.model.trial import Question
from tests.model import hostile_kernels
from tests.model.test_attention import language

PATIENCE_S = 5.0
"""For one kernel. What these do takes milliseconds."""


@pytest.fixture
def question(monkeypatch: pytest.MonkeyPatch) -> Question:
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    keys = [*hostile_kernels.KERNELS]
    return Question(language(4, 2), 16, "float32", "cpu", "fp8", module=hostile_kernels.__name__, keys=keys)


def asking(question: Question, *keys: str) -> Question:
    return replace(question, keys=[*keys])


def test_whatever_a_kernel_does_the_others_are_tried_and_the_log_says_why(
    question: Question, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert sound_kernels(question, tmp_path / "notes", PATIENCE_S) == ["normalize"]
    told = dict(message.split(": the kernel is not used, torch does it, slower: ") for message in caplog.messages)
    assert told["attention of single rows"].startswith("its process ended with signal 6")
    assert told["rotary embedding"].startswith("its process hung for 5 s")
    assert told["SwiGLU"].startswith("AssertionError: ")
    assert told["product with quantised weights"].startswith(
        "its process ended with status 1 (RuntimeError: an illegal memory access"
    )
    assert told["product with fp8 weights and rows"] == "RuntimeError: Triton Error [CUDA]: out of memory"
    assert not (tmp_path / "notes").exists(), "where memory was short, the next start tries again"


def test_what_was_found_is_noted_and_the_next_start_needs_no_process(
    question: Question, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = asking(question, "attend", "normalize", "swiglu")
    assert sound_kernels(some, tmp_path, PATIENCE_S) == ["normalize"]
    (note,) = tmp_path.iterdir()
    first = caplog.messages.copy()
    monkeypatch.setattr(sys, "executable", "/nowhere")
    caplog.clear()
    assert sound_kernels(some, tmp_path, PATIENCE_S) == ["normalize"]
    assert caplog.messages == first
    note.write_bytes(b"{")
    assert sound_kernels(some, tmp_path, PATIENCE_S) == []


def test_a_process_that_cannot_begin_condemns_no_kernel(
    question: Question, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "")  # it finds no kernels
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert sound_kernels(asking(question, "normalize"), tmp_path, PATIENCE_S) == []
    assert len(caplog.messages) == 1
    assert "they can't be tried: its process ended with status 1" in caplog.messages[0]
    assert [*tmp_path.iterdir()] == []


def test_a_process_that_ends_before_it_was_asked_tells_how_it_ended(
    question: Question, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    more_than_a_pipe_takes = "no.kernels" * (1 << 14)
    assert sound_kernels(replace(question, module=more_than_a_pipe_takes), None, PATIENCE_S) == []
    assert "they can't be tried: its process ended with status 1" in caplog.messages[0]


def test_the_process_ends_with_whoever_asked(question: Question) -> None:
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "lavatube.model.trial"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(msgspec.json.encode(asking(question, "rotate_and_store")) + b"\n")
    process.stdin.flush()
    assert b"begun" in process.stdout.readline()
    process.stdin.close()
    assert process.wait(60) == 0
    process.stdout.close()


def test_what_python_prints_as_it_starts_is_no_answer(
    question: Question, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('modules: loaded')\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path.cwd()}")
    assert sound_kernels(asking(question, "normalize"), None, PATIENCE_S) == ["normalize"]
