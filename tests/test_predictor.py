"""The pattern's own interface, in this process: set up once, predict many, from any thread."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lavatube import Predictor
from lavatube.errors import Draining, InvalidInput, InvalidSetting, NotReady
from lavatube.prompt.chat import Chat, Generation, ImageInput, Role, Text, Turn
from lavatube.weights.progress import Progress
from tests.checkpoints import write_checkpoint

PICTURE = Path(__file__).parent.parent / "examples" / "shapes.png"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def predictor(folder: Path) -> Iterator[Predictor]:
    with Predictor(str(folder)) as predictor:
        yield predictor


def ask(predictor: Predictor, **options: object) -> str:
    return "".join(predictor.predict(PICTURE, "What is it?", **{"temperature": 0, "max_tokens": 20, **options}))


def test_pieces_come_one_by_one(predictor: Predictor) -> None:
    pieces = list(predictor.predict(PICTURE, "What is it?", temperature=0, max_tokens=20))
    assert len(pieces) > 5
    assert all(pieces)


def test_set_up_once_predict_many(predictor: Predictor) -> None:
    predictor.setup()
    assert ask(predictor) == ask(predictor)


def test_set_up_tells_how_far_it_is(folder: Path) -> None:
    heard: list[Progress] = []
    predictor = Predictor(str(folder))
    predictor.setup(heard.append)
    predictor.close()
    (*_, last) = heard
    assert last.phase == "loading"
    assert 0 < last.done_bytes == last.total_bytes


def test_a_seed_makes_sampling_repeatable(predictor: Predictor) -> None:
    first, second, other = (ask(predictor, temperature=5.0, seed=seed) for seed in (1, 1, 2))
    assert first == second != other


def test_bytes_and_paths_are_the_same_picture(predictor: Predictor) -> None:
    question = {"prompt": "What is it?", "temperature": 0.0, "max_tokens": 10}
    answers = {"".join(predictor.predict(image, **question)) for image in (PICTURE, str(PICTURE), PICTURE.read_bytes())}
    assert len(answers) == 1


def test_a_conversation(predictor: Predictor) -> None:
    turns = (
        Turn(Role.USER, (ImageInput(PICTURE.read_bytes()), Text("What is it?"))),
        Turn(Role.ASSISTANT, (Text("A circle."),)),
        Turn(Role.USER, (Text("And its colour?"),)),
    )
    assert "".join(predictor.chat(Chat(turns), Generation(max_tokens=5, temperature=0)))


def test_no_tokens_wanted(predictor: Predictor) -> None:
    assert ask(predictor, max_tokens=0) == ""


def test_many_threads_at_once(predictor: Predictor) -> None:
    expected = ask(predictor)
    answers: list[str] = []
    threads = [threading.Thread(target=lambda: answers.append(ask(predictor))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [expected] * 8


def test_another_thread_may_close_an_answer(predictor: Predictor) -> None:
    answer = predictor.predict(PICTURE, "What is it?", temperature=0, max_tokens=900)
    next(answer)
    closer = threading.Thread(target=answer.close)
    closer.start()
    assert len(list(answer)) < 899
    closer.join()


def test_a_closed_answer_says_nothing_more(predictor: Predictor) -> None:
    answer = predictor.predict(PICTURE, "What is it?", temperature=0, max_tokens=900)
    next(answer)
    answer.close()
    assert list(answer) == []


ABANDON = """
import sys
from lavatube import Predictor
predictor = Predictor(sys.argv[1])
predictor.setup()
for text in predictor.predict(sys.argv[2], "What is it?", temperature=0, max_tokens=900):
    sys.exit(3)
"""


def test_a_program_may_end_in_the_middle_of_an_answer(folder: Path) -> None:
    command = [sys.executable, "-c", ABANDON, str(folder), str(PICTURE)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (ended.returncode, ended.stderr) == (3, "")


def test_a_predictor_that_nobody_holds_frees_its_model(folder: Path) -> None:
    before = threading.active_count()
    predictor = Predictor(str(folder))
    predictor.setup()
    answer = predictor.predict(PICTURE, "What is it?", temperature=0, max_tokens=20)
    del predictor
    assert len(list(answer)) > 5, "whoever reads an answer holds its predictor"
    del answer
    assert threading.active_count() == before


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "1"])
def test_a_picture_of_pil_is_what_its_file_is(predictor: Predictor, tmp_path: Path, mode: str) -> None:
    picture = Image.open(PICTURE).convert(mode)
    picture.save(tmp_path / "same.png")
    answers = [
        list(predictor.predict(image, "What is it?", temperature=0, max_tokens=20))
        for image in (picture, tmp_path / "same.png")
    ]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("image", [5, [1, 2], Image.new("CMYK", (9, 9))])
def test_what_is_no_picture_is_told_what_would_be(predictor: Predictor, image: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        predictor.predict(image, "What is it?")
    assert (caught.value.param, bool(caught.value.remedy)) == ("image", True)


@pytest.mark.parametrize(
    ("options", "param"),
    [({"temperature": -1}, "temperature"), ({"top_p": 2}, "top_p"), ({"max_tokens": -1}, "max_tokens")],
)
def test_bad_input_is_named(predictor: Predictor, options: dict[str, object], param: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        ask(predictor, **options)
    assert caught.value.param == param
    assert caught.value.remedy


def test_a_missing_file_is_named(predictor: Predictor) -> None:
    with pytest.raises(InvalidInput, match=r"no-such\.png"):
        predictor.predict("no-such.png", "What is it?")


def test_before_setup(folder: Path) -> None:
    with pytest.raises(NotReady, match="setup"):
        Predictor(str(folder)).predict(PICTURE, "What is it?")


def test_an_unknown_setting_is_named() -> None:
    with pytest.raises(InvalidSetting, match="devise"):
        Predictor(devise="cpu")


def test_closing_ends_open_answers_with_an_error(folder: Path) -> None:
    with Predictor(str(folder)) as predictor:
        answer = predictor.predict(PICTURE, "What is it?", temperature=0, max_tokens=900)
        next(answer)
    with pytest.raises(Draining):
        list(answer)
    with pytest.raises(NotReady):
        predictor.predict(PICTURE, "What is it?")


def test_a_failed_setup_leaves_no_children(folder: Path) -> None:
    before = children()
    with pytest.raises(InvalidSetting, match="CUDA"):
        Predictor(str(folder), device="cuda:7").setup()
    assert children() == before


def children() -> set[str]:
    return set(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split())
