"""The command line, run as a person runs it: what it prints, and with which code it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.flow.conftest import EXAMPLES


def run(*arguments: str | Path, cache: Path | None = None) -> subprocess.CompletedProcess[str]:
    place = ("--cache", str(cache)) if cache else ()
    command = [sys.executable, "-m", "lavatube", *map(str, arguments), *place]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def test_predict_streams_a_right_answer(cache: Path) -> None:
    result = run("predict", EXAMPLES / "shapes.png", "How many circles are there?", cache=cache)
    assert result.returncode == 0, result.stderr
    assert "two" in result.stdout.lower()
    assert result.stdout == f"{result.stdout.strip()}\n"
    assert result.stderr == ""


def test_pull_as_json_ends_with_the_folder(cache: Path) -> None:
    result = run("pull", "tiny", "--json", cache=cache)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert lines[0]["phase"] == "resolving"
    assert (Path(lines[-1]["folder"]) / "config.json").is_file()
    assert lines[-1]["set_digest"] in lines[-1]["folder"]


def test_pull_for_people(cache: Path) -> None:
    result = run("pull", "tiny", cache=cache)
    assert result.returncode == 0, result.stderr
    assert "digest" in result.stdout


def test_inspect_gives_every_decision_its_reason_and_counts_the_tokens_of_pictures(cache: Path) -> None:
    people = run("inspect", "--image", "640x480", "--image", "9x9", "--fidelity", "original", cache=cache)
    assert people.returncode == 0, people.stderr
    for subject in ("vision tower", "pixels", "chat template", "stop tokens", "computed dtype", "requests at once"):
        assert subject in people.stdout
    assert "640x480" in people.stdout
    assert run("inspect", "--image", "640", cache=cache).returncode == 2


def test_inspect_tells_the_same_to_machines(cache: Path) -> None:
    """And counts fp8 where it is not served, and says so."""
    machine = {}
    for quantize in ("int8", "fp8"):
        flags = ("--json", "--image", "640x480", "--device", "cpu", "--quantize", quantize)
        machine[quantize] = told = json.loads(run("inspect", *flags, cache=cache).stdout)
        assert all(decision["reason"] for decision in told["spec"]["decisions"])
        (image,) = told["images"]
        assert (image["width"], image["tiles"], image["tokens"]) == (640, 1, image["tokens_low_detail"])
    weights = {quantize: told["memory"]["weights_bytes"] for quantize, told in machine.items()}
    assert 0.95 * weights["int8"] < weights["fp8"] <= weights["int8"]
    assert "not served here" in machine["fp8"]["spec"]["decisions"][-1]["reason"]


def test_lock_writes_what_sha256sum_checks(tmp_path: Path) -> None:
    lock = tmp_path / "lavatube.lock.json"
    result = run("lock", "tiny", "--output", lock, cache=tmp_path / "cache")
    assert result.returncode == 0, result.stderr
    manifest = json.loads(lock.read_text())
    lines = "".join(sorted(f"{file['sha256']}  {file['path']}\n" for file in manifest["files"]))
    digest = subprocess.run(["sha256sum"], input=lines, capture_output=True, text=True, check=True).stdout.split()[0]
    assert digest in result.stdout


def test_the_cache_is_listed_and_emptied(tmp_path: Path) -> None:
    assert run("pull", "tiny", cache=tmp_path).returncode == 0
    assert "tiny" in run("cache", "ls", cache=tmp_path).stdout
    assert run("cache", "rm", "tiny", cache=tmp_path).returncode == 0
    assert "no weights" in run("cache", cache=tmp_path).stdout
    assert run("cache", "gc", cache=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["predict", "no-such.png", "Hi"], 1, "no-such.png"),
        (["pull", "/no/such/folder"], 2, "no directory"),
        (["pull", "s3://no bucket"], 2, "s3://"),
        (["serve", "--port", "many"], 2, "not a whole number"),
        (["serve", "--prot", "5000"], 2, "there is no --prot; --port may be meant"),
        (["serve", "--max-body", "5"], 2, "there is no --max-body; --max-body-mib may be meant"),
        (["cache", "gc", "tiny"], 2, "lavatube cache gc: there is no place for 'tiny'"),
        (["cache", "rm", "nothing"], 2, "cache ls"),
        (["serve", "--device", "gpu"], 2, "argument --device: 'gpu' does not fit: auto, cpu, cuda or cuda:N"),
        (["lock", "tiny", "--output", "/no/such/folder/x.json"], 2, "--output"),
        (["pull", "tiny", "--lock", "/no/such/lock.json"], 1, "/no/such/lock.json"),
    ],
)
def test_a_mistake_gets_a_sentence_and_a_code(tmp_path: Path, arguments: list[str], code: int, said: str) -> None:
    result = run(*arguments, cache=tmp_path)
    assert result.returncode == code, result.stderr
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.splitlines()) <= 3, "what is wrong must not drown in a list of flags"


def test_a_bad_variable_gets_a_sentence_and_a_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAVATUBE_TRACE", "/no/such/folder/trace.json")
    result = run("pull", cache=tmp_path)
    assert (result.returncode, "Traceback" in result.stderr) == (2, False)
    assert "trace: /no/such/folder/trace.json can't be written" in result.stderr


def test_the_version_is_told() -> None:
    result = run("--version")
    assert (result.returncode, result.stdout) == (0, f"lavatube {version('lavatube')}\n")


def test_without_a_command_there_is_help() -> None:
    result = run()
    assert result.returncode == 2
    assert "COMMAND" in result.stderr
    assert "serve a model over HTTP" in result.stderr


@pytest.mark.parametrize("command", ["serve", "predict", "pull", "inspect", "lock", "cache"])
def test_help_teaches(command: str) -> None:
    result = run(command, "--help")
    assert result.returncode == 0
    assert "examples:" in result.stdout
