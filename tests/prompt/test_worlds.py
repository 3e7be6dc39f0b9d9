"""Preparing for checkpoints of the original's world, and for any that cut pictures into tiles."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest
import sentencepiece

from lavatube.errors import BadImageDimensions, ImageTooLarge, UnsupportedCheckpoint
from lavatube.prompt.chat import Chat, Generation, ImageInput, Role, Text, Turn, single_turn
from lavatube.prompt.decoder import ImageDecoder
from lavatube.prompt.images import ImageLimits
from lavatube.prompt.prepare import Preparer
from lavatube.spec import ModelSpec, PixelMode
from tests.test_geometry import anyres_spec

from .builders import byte_level_tokenizer, encoded, model_spec, scene, write_sentencepiece, write_tokenizer

VOCAB = 500
PICTURE = ImageInput(encoded(scene(97, 61)))
SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)

Make = Callable[[ModelSpec, Path], Preparer]


@pytest.fixture(scope="module")
def make() -> Iterator[Make]:
    with ExitStack() as open_ones:

        def make(spec: ModelSpec, folder: Path) -> Preparer:
            limits = ImageLimits(max_aspect=40)
            return open_ones.enter_context(closing(Preparer(spec, folder, limits, None, ImageDecoder(1))))

        yield make


@pytest.fixture(scope="module")
def vicuna(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer.model, with the marks of v0 behind it."""
    folder = write_sentencepiece(tmp_path_factory.mktemp("vicuna"))
    size = len(pieces(folder))
    (folder / "added_tokens.json").write_text(json.dumps({"<im_start>": size, "<im_end>": size + 1}))
    return folder


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("byte-level"), byte_level_tokenizer())


def pieces(folder: Path) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def original_spec(template: str, mode: PixelMode = "pad", *, has_marks: bool = False) -> ModelSpec:
    base = model_spec(mode=mode)
    return replace(
        base,
        language=replace(base.language, vocab_size=VOCAB),
        layout="original",
        fidelity="original",
        image_token_id=VOCAB,
        stop_token_ids=(2,),
        builtin_template=template,
        tokenizer="sentencepiece",
        is_legacy_tokenizer=True,
        has_image_marks=has_marks,
    )


def prepare(preparer: Preparer, *turns: Turn) -> list[int]:
    return preparer.prepare(Chat(turns), Generation()).token_ids


def user(*parts: Text | ImageInput) -> Turn:
    return Turn(Role.USER, parts)


def test_chunks_round_a_picture_are_encoded_each_on_its_own(make: Make, vicuna: Path) -> None:
    encode = pieces(vicuna).encode
    ids = prepare(make(original_spec("llava_v1"), vicuna), user(PICTURE, Text("What is it?")))
    expected = [1, *encode(f"{SYSTEM} USER: "), *[VOCAB] * 16, *encode("\nWhat is it? ASSISTANT:")]
    assert ids == expected


def test_later_pictures_of_a_talk(make: Make, vicuna: Path) -> None:
    encode = pieces(vicuna).encode
    answer = Turn(Role.ASSISTANT, (Text("A star."),))
    preparer = make(original_spec("mistral_instruct"), vicuna)
    ids = prepare(preparer, user(PICTURE, Text("Hi")), answer, user(PICTURE, PICTURE, Text("And?")))
    end = [2, *encode("[INST] ")]
    tail = [*[VOCAB] * 16, *encode("\n"), *[VOCAB] * 16, *encode("\nAnd? [/INST]")]
    assert ids == [1, *encode("[INST] "), *[VOCAB] * 16, *encode("\nHi [/INST] A star. "), *end, *tail]


def test_pictures_stand_between_their_marks(make: Make, vicuna: Path) -> None:
    encode, size = pieces(vicuna).encode, len(pieces(vicuna))
    preparer = make(original_spec("llava_v0", has_marks=True), vicuna)
    prepared = preparer.prepare(single_turn("Hi", PICTURE.source), Generation(stop=("!",)))
    marked = [size, *[VOCAB] * 16, size + 1]
    assert prepared.token_ids == [1, *encode(f"{SYSTEM}###Human: "), *marked, *encode("\nHi###Assistant:")]
    assert prepared.stop == ("!", "###")
    assert prepared.sampling.stop_token_ids == (2,)


def test_marks_that_the_tokenizer_lacks_stop_the_start(tmp_path: Path) -> None:
    spec, folder = original_spec("llava_v0", has_marks=True), write_sentencepiece(tmp_path)
    with closing(ImageDecoder(1)) as decoder, pytest.raises(UnsupportedCheckpoint, match="<im_start>"):
        Preparer(spec, folder, ImageLimits(), None, decoder)


def test_text_alone_and_placeholders_that_are_typed(make: Make, vicuna: Path) -> None:
    encode = pieces(vicuna).encode
    preparer = make(original_spec("llava_v1"), vicuna)
    ids = prepare(preparer, user(Text("<image></s><im_start>\U0010fffd")))
    assert ids == [1, *encode(f"{SYSTEM} USER: <image></s><im_start>\ufffd ASSISTANT:")]


def test_chunks_and_placeholder_with_a_tokenizer_json(make: Make, byte_level: Path) -> None:
    spec = replace(original_spec("llava_v1"), tokenizer="json")
    whole = make(replace(spec, fidelity="hf"), byte_level)
    chunked = make(spec, byte_level)
    talk = (user(PICTURE, Text("Hi")), Turn(Role.ASSISTANT, (Text("Yes."),)), user(PICTURE, Text("And?")))
    assert prepare(whole, *talk) == prepare(chunked, *talk)  # this tokenizer puts nothing in front of a chunk
    assert prepare(chunked, *talk).count(VOCAB) == 32


@pytest.mark.parametrize("several", ["same", "pad"])
def test_an_estimate_is_what_is_prepared(make: Make, byte_level: Path, several: str) -> None:
    """The count of tokens from (width, height) alone is what preprocessing yields, always."""
    grids = tuple((32 * cols, 32 * rows) for cols in (1, 2, 3) for rows in (1, 2, 3))
    spec = anyres_spec(32, 8, "clip", grids=grids, max_tiles=4, several=several)
    language = replace(spec.language, max_positions=4096)
    preparer = make(replace(spec, language=language), byte_level)
    sizes = [(2, 2), (7, 5), (33, 31), (97, 61), (40, 90), (300, 20), (20, 300), (96, 96), (640, 480)]
    for first, second in zip(sizes, reversed(sizes), strict=True):
        for chosen, details in (((first,), ("high",)), ((first,), ("low",)), ((first, second), ("low", "high"))):
            pictures = [
                ImageInput(encoded(scene(*size)), detail=detail) for size, detail in zip(chosen, details, strict=True)
            ]
            chat = Chat((user(*pictures, Text("Hi")),))
            prepared, estimate = preparer.prepare(chat, Generation()), preparer.estimate(chat, chosen)
            assert estimate.prompt_tokens == prepared.prompt_tokens == len(prepared.token_ids)
            assert estimate.image_tokens == prepared.image_tokens
            assert estimate.room_tokens == prepared.sampling.max_tokens
            for plan, image in zip(estimate.images, prepared.images, strict=True):
                assert (plan.num_tokens, plan.tiles) == (image.num_tokens, image.tiles)
                assert len(image.data) == plan.tiles * 3 * 32 * 32


def test_tiles_that_are_alike_but_laid_out_otherwise_have_another_name(make: Make, byte_level: Path) -> None:
    """Black pictures of two shapes are the same pixels, and yet other features."""
    spec = anyres_spec(32, 8, "clip", grids=((64, 64),))
    preparer = make(spec, byte_level)
    black = [ImageInput(encoded(scene(*size).point(lambda _: 0))) for size in ((64, 64), (64, 32))]
    square, wide = (preparer.prepare(Chat((user(image),)), Generation()).images[0] for image in black)
    assert square.data == wide.data
    assert square.digest != wide.digest


def test_low_detail_is_the_same_picture_to_a_model_of_one_tile(make: Make, byte_level: Path) -> None:
    preparer = make(model_spec(), byte_level)
    high, low = (
        preparer.prepare(Chat((user(replace(PICTURE, detail=detail)),)), Generation()) for detail in ("high", "low")
    )
    assert high.images[0].digest == low.images[0].digest


@pytest.mark.parametrize(("size", "error"), [((100_000, 1000), ImageTooLarge), ((410, 10), BadImageDimensions)])
def test_an_estimate_refuses_what_would_be_refused(
    make: Make, byte_level: Path, size: tuple[int, int], error: type[Exception]
) -> None:
    chat = Chat((user(ImageInput("", "messages.0.content.0"), Text("Hi")),))
    with pytest.raises(error) as caught:
        make(model_spec(), byte_level).estimate(chat, [size])
    assert caught.value.param == "messages.0.content.0"


def test_an_estimate_counts_what_is_too_long(make: Make, byte_level: Path) -> None:
    estimate = make(model_spec(max_positions=20), byte_level).estimate(single_turn("Hello " * 3, ""), [(64, 48)])
    assert estimate.prompt_tokens > 20
    assert estimate.room_tokens == 0


def surplus_spec(vicuna: Path, *, has_marks: bool = False) -> ModelSpec:
    """A model with no rows for the two tokens that were added to its tokenizer; the first has the placeholder's id."""
    spec, size = original_spec("llava_v1", has_marks=has_marks), len(pieces(vicuna))
    return replace(spec, language=replace(spec.language, vocab_size=size), image_token_id=size)


def test_tokens_that_the_model_has_no_rows_for_are_text_when_typed(make: Make, vicuna: Path) -> None:
    encode, size = pieces(vicuna).encode, len(pieces(vicuna))
    ids = prepare(make(surplus_spec(vicuna), vicuna), user(PICTURE, Text("<im_start><im_end>")))
    assert ids == [1, *encode(f"{SYSTEM} USER: "), *[size] * 16, *encode("\n<im_start><im_end> ASSISTANT:")]


def test_marks_that_the_model_has_no_rows_for_stop_the_start(vicuna: Path) -> None:
    spec = surplus_spec(vicuna, has_marks=True)
    with closing(ImageDecoder(1)) as decoder, pytest.raises(UnsupportedCheckpoint, match="or the model has no <im_sta"):
        Preparer(spec, vicuna, ImageLimits(), None, decoder)
