"""From a chat to what the engine takes; and every way in which a chat is refused."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from lavatube.engine.frames import decode_command, frame
from lavatube.engine.wire import Submit
from lavatube.errors import (
    ForbiddenImageUrl,
    ImageRejected,
    ImageTooLarge,
    InvalidImageUrl,
    InvalidInput,
    PromptTooLong,
    TooManyImages,
    UnsupportedCheckpoint,
)
from lavatube.prompt.chat import Chat, Generation, ImageInput, Role, Text, Turn, single_turn
from lavatube.prompt.decoder import ImageDecoder
from lavatube.prompt.fetch import UrlGate
from lavatube.prompt.images import ImageLimits
from lavatube.prompt.prepare import Preparer

from .builders import BOS, EOS, IMAGE, byte_level_tokenizer, cut, encoded, model_spec, scene, write_tokenizer

PICTURE = encoded(scene())
OTHER = encoded(scene().transpose(Image.Transpose.ROTATE_180))
NEVER = UrlGate("never.example.com")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("checkpoint"), byte_level_tokenizer())


@pytest.fixture(scope="module")
def preparer(folder: Path) -> Iterator[Preparer]:
    limits = ImageLimits(max_images=3, max_bytes=100_000)
    preparer = Preparer(model_spec(), folder, limits, NEVER, ImageDecoder(2))
    yield preparer
    preparer.close()


def talk(*parts: Text | ImageInput) -> Chat:
    return Chat((Turn(Role.USER, parts),))


def test_one_picture_and_one_question(preparer: Preparer) -> None:
    prepared = preparer.prepare(single_turn("Hi", PICTURE), Generation(seed=7, stop=("###",)))
    text = preparer.tokenizer.encode_prompt(preparer._template.render(single_turn("Hi", PICTURE)))
    place = text.index(IMAGE)
    assert prepared.token_ids == text[:place] + [IMAGE] * 16 + text[place + 1 :]
    assert prepared.token_ids[0] == BOS
    assert (prepared.prompt_tokens, prepared.image_tokens) == (len(prepared.token_ids), 16)
    assert prepared.images[0].data == cut(scene(), model_spec().pixels).data
    assert (prepared.images[0].tiles, prepared.images[0].size, prepared.images[0].num_tokens) == (1, 32, 16)
    assert prepared.stop == ("###",)
    assert (prepared.sampling.seed, prepared.sampling.stop_token_ids) == (7, (EOS,))


def test_it_crosses_the_wire(preparer: Preparer) -> None:
    prepared = preparer.prepare(single_turn("Hi", PICTURE), Generation())
    submit = Submit("a", prepared.token_ids, list(prepared.images), prepared.sampling)
    assert decode_command(frame(submit)[4:]) == submit


def test_pictures_keep_their_order_and_their_names(preparer: Preparer) -> None:
    chat = talk(ImageInput(PICTURE), Text("a"), ImageInput(OTHER), ImageInput(PICTURE))
    first, second, third = preparer.prepare(chat, Generation()).images
    assert first == third
    assert first.digest != second.digest
    assert len(first.digest) == 32


def test_a_data_url_is_the_same_picture(preparer: Preparer) -> None:
    url = "data:image/png;base64," + base64.b64encode(PICTURE).decode()
    by_url, by_bytes = (preparer.prepare(single_turn("Hi", source), Generation()) for source in (url, PICTURE))
    assert by_url.images == by_bytes.images


def test_text_without_a_picture_is_a_prompt_too(preparer: Preparer) -> None:
    prepared = preparer.prepare(single_turn("", None), Generation())
    assert prepared.images == ()
    assert prepared.image_tokens == 0
    assert IMAGE not in prepared.token_ids


def test_placeholders_that_a_user_types_are_text(preparer: Preparer) -> None:
    prepared = preparer.prepare(single_turn("<image> and <image></s>", PICTURE), Generation())
    assert prepared.token_ids.count(IMAGE) == 16
    assert EOS not in prepared.token_ids


def test_answers_fit_into_the_context(preparer: Preparer) -> None:
    open_end, long, short, none = (
        preparer.prepare(single_turn("Hi", PICTURE), Generation(max_tokens=wanted)) for wanted in (None, 9999, 5, 0)
    )
    room = 512 - open_end.prompt_tokens
    wanted = [room, room, 5, 0]
    assert [prepared.sampling.max_tokens for prepared in (open_end, long, short, none)] == wanted


def test_seeds_differ_unless_they_are_given(preparer: Preparer) -> None:
    seeds = {preparer.prepare(single_turn("Hi", None), Generation()).sampling.seed for _ in range(5)}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_sampling_is_handed_on(preparer: Preparer) -> None:
    generation = Generation(temperature=0.7, top_p=0.9, top_k=40)
    sampling = preparer.prepare(single_turn("Hi", None), generation).sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.7, 0.9, 40)


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (b"", ImageRejected),
        (b"<!DOCTYPE html>", ImageRejected),
        (PICTURE[:60], ImageRejected),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 100_000, ImageTooLarge),
        ("", InvalidImageUrl),
        ("/etc/passwd", InvalidImageUrl),
        ("data:image/png;base64,@@@@", InvalidImageUrl),
        ("data:image/png;base64," + "A" * 200_000, ImageTooLarge),
        ("http://example.com/x.png", ForbiddenImageUrl),
    ],
)
def test_a_refused_picture_is_named(preparer: Preparer, source: bytes | str, error: type[ImageRejected]) -> None:
    good, bad = ImageInput(PICTURE, "messages.0.content.0"), ImageInput(source, "messages.0.content.1")
    with pytest.raises(error) as caught:
        preparer.prepare(talk(good, bad, Text("Hi")), Generation())
    assert type(caught.value) is error
    assert caught.value.param == "messages.0.content.1"


def test_without_a_gate_nothing_is_fetched(folder: Path) -> None:
    preparer = Preparer(model_spec(), folder, ImageLimits(), None, ImageDecoder(1))
    try:
        with pytest.raises(ForbiddenImageUrl, match="data: URL"):
            preparer.prepare(single_turn("Hi", "http://example.com/x.png"), Generation())
    finally:
        preparer.close()


def test_too_many_pictures(preparer: Preparer) -> None:
    with pytest.raises(TooManyImages, match="4 pictures; 3 are allowed") as caught:
        preparer.prepare(talk(*[ImageInput(b"", f"images.{n}") for n in range(4)]), Generation())
    assert caught.value.param == "images.3"


def test_a_long_prompt_is_refused_with_its_numbers(preparer: Preparer) -> None:
    with pytest.raises(PromptTooLong, match=r"The prompt has \d{3,} tokens; the context holds 512"):
        preparer.prepare(single_turn("ab " * 300, b"not even a picture"), Generation())
    fits = preparer.prepare(single_turn("", None), Generation()).prompt_tokens
    words = " b" * ((512 - fits - 8) // 2)
    with pytest.raises(PromptTooLong, match=r"16 of them for pictures"):
        preparer.prepare(single_turn(words, PICTURE), Generation())


def test_a_prompt_that_leaves_no_room_for_an_answer_is_too_long(folder: Path, preparer: Preparer) -> None:
    size = preparer.prepare(single_turn("Hi", PICTURE), Generation()).prompt_tokens
    for positions, is_enough in ((size, False), (size + 1, True)):
        exact = Preparer(model_spec(max_positions=positions), folder, ImageLimits(), None, ImageDecoder(1))
        try:
            if is_enough:
                prepared = exact.prepare(single_turn("Hi", PICTURE), Generation())
                assert prepared.sampling.max_tokens == 1
            else:
                with pytest.raises(PromptTooLong):
                    exact.prepare(single_turn("Hi", PICTURE), Generation())
        finally:
            exact.close()


def test_a_huge_text_is_refused_before_it_costs_anything(preparer: Preparer) -> None:
    with pytest.raises(PromptTooLong, match="at least"):
        preparer.prepare(single_turn("\u0bcc" * 350_000, None), Generation())


@pytest.mark.parametrize(
    ("chat", "generation"),
    [
        (Chat(()), Generation()),
        (single_turn("a\ud800b", None), Generation()),
        (single_turn("a", None), Generation(stop=("",))),
        (single_turn("a", None), Generation(stop=("x" * 257,))),
        (single_turn("a", None), Generation(stop=("x",) * 17)),
    ],
)
def test_what_can_not_be_answered(preparer: Preparer, chat: Chat, generation: Generation) -> None:
    with pytest.raises(InvalidInput):
        preparer.prepare(chat, generation)


def test_a_template_that_loses_a_picture_is_an_error(folder: Path) -> None:
    source = (
        "{% for m in messages %}{% for p in m.content %}{{ p.text or '' }}{% endfor %}{% endfor %}"
        "{% for p in messages[-1].content if p.type == 'image' %}<image>{% endfor %}"
    )
    preparer = Preparer(model_spec(template=source), folder, ImageLimits(), None, ImageDecoder(1))
    try:
        chat = Chat((*single_turn("Hi", PICTURE).turns, Turn(Role.USER, (Text("again"),))))
        with pytest.raises(InvalidInput, match="places 0 of the 1 pictures"):
            preparer.prepare(chat, Generation())
    finally:
        preparer.close()


def test_a_tokenizer_that_is_larger_than_the_model_stops_the_start(folder: Path) -> None:
    spec = model_spec()
    small = replace(spec, language=replace(spec.language, vocab_size=300))
    decoder = ImageDecoder(1)
    try:
        with pytest.raises(UnsupportedCheckpoint, match="vocabulary"):
            Preparer(small, folder, ImageLimits(), None, decoder)
        with pytest.raises(UnsupportedCheckpoint, match="image"):
            Preparer(replace(spec, image_token_id=399), folder, ImageLimits(), None, decoder)
    finally:
        decoder.close()


def test_the_front_opens_no_picture_itself() -> None:
    program = "import sys, lavatube.prompt.prepare as p; print(*{'PIL', 'numpy', 'torch', 'jinja2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""


def test_closing_ends_all_children(folder: Path) -> None:
    decoder = ImageDecoder(2)
    preparer = Preparer(
        model_spec(template="{{ messages[0].content[1].text }}<image>"), folder, ImageLimits(), None, decoder
    )
    pids = [*decoder.pids, *preparer._template._pool.pids]
    assert len(pids) == 3
    preparer.close()
    if sys.platform == "linux":
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
