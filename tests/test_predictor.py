"""The pattern's own interface, in this process: set up once, predict many, from any thread."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lavatube import Predictor
from lavatube.errors import Draining, InvalidInput, InvalidSetting, NotReady
from lavatube.prompt.chat import Chat, Generation, ImageInput, Role, Text, Turn
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
