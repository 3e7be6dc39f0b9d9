"""The embedded model through `transformers`: the same folder, the same pixels, the same ids, the same answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, LlavaForConditionalGeneration, LlavaProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from lavatube.checkpoint.read import read_spec
from lavatube.model.load import load_model
from lavatube.predictor import Predictor
from lavatube.prompt.chat import Generation, single_turn
from lavatube.prompt.prepare import Prepared
from lavatube.weights.uri import EMBEDDED
from tests.model.driver import Driver, Stream

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
PICTURES = sorted(path.name for path in EXAMPLES.glob("*.png"))
QUESTIONS = ["Describe the picture.", "How many circles are there?", "which letter is this", "Qu'est-ce que c'est ? 🙂"]


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Predictor]:
    with Predictor(cache=tmp_path_factory.mktemp("cache")) as predictor:
        yield predictor


@pytest.fixture(scope="module")
def theirs() -> LlavaForConditionalGeneration:
    return LlavaForConditionalGeneration.from_pretrained(EMBEDDED, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def processor() -> LlavaProcessor:
    return LlavaProcessor(
        CLIPImageProcessorPil.from_pretrained(EMBEDDED),
        AutoTokenizer.from_pretrained(EMBEDDED),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=(EMBEDDED / "chat_template.jinja").read_text(),
    )


def their_inputs(processor: LlavaProcessor, picture: str, question: str) -> dict[str, torch.Tensor]:
    content = [{"type": "image"}, {"type": "text", "text": question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    image = Image.open(EXAMPLES / picture).convert("RGB")
    return dict(processor(images=image, text=text, add_special_tokens=False, return_tensors="pt"))


def our_inputs(predictor: Predictor, picture: str, question: str) -> Prepared:
    assert predictor._preparer is not None
    chat = single_turn(question, (EXAMPLES / picture).read_bytes())
    return predictor._preparer.prepare(chat, Generation(max_tokens=1))


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("question", QUESTIONS)
def test_the_same_ids_and_pixels(predictor: Predictor, processor: LlavaProcessor, picture: str, question: str) -> None:
    reference = their_inputs(processor, picture, question)
    prepared = our_inputs(predictor, picture, question)
    assert prepared.token_ids == reference["input_ids"][0].tolist()
    spec = read_spec(EMBEDDED)
    pixels = torch.frombuffer(bytearray(prepared.images[0].data), dtype=torch.uint8).view(1, 3, 96, 96)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (spec.pixels.mean, spec.pixels.std))
    normalised = ((pixels.double() * spec.pixels.rescale).float() - mean) / std
    torch.testing.assert_close(normalised, reference["pixel_values"], rtol=0, atol=1e-6)


@torch.inference_mode()
@pytest.mark.parametrize("picture", PICTURES)
def test_the_same_logits(
    predictor: Predictor, processor: LlavaProcessor, theirs: LlavaForConditionalGeneration, picture: str
) -> None:
    prepared = our_inputs(predictor, picture, QUESTIONS[0])
    spec = read_spec(EMBEDDED)
    ours = load_model(spec, EMBEDDED, torch.device("cpu"), torch.float32, lambda done, total: None)
    ids = torch.tensor(prepared.token_ids)
    embeddings = ours.embed_tokens(ids).clone()
    pixels = torch.frombuffer(bytearray(prepared.images[0].data), dtype=torch.uint8).view(1, 3, 96, 96)
    embeddings[ids == spec.image_token_id] = ours.encode_images(pixels).flatten(0, 1)
    (logits,) = Driver(ours, spec).step([(Stream(), embeddings)])
    reference = theirs(**their_inputs(processor, picture, QUESTIONS[0])).logits[0]
    torch.testing.assert_close(logits, reference, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("picture", PICTURES)
def test_the_same_answer(
    predictor: Predictor, processor: LlavaProcessor, theirs: LlavaForConditionalGeneration, picture: str
) -> None:
    answer = "".join(predictor.predict(EXAMPLES / picture, QUESTIONS[0], temperature=0, max_tokens=60))
    inputs = their_inputs(processor, picture, QUESTIONS[0])
    ids = theirs.generate(**inputs, do_sample=False, max_new_tokens=60)[0, inputs["input_ids"].shape[1] :]
    assert answer == processor.tokenizer.decode(ids, skip_special_tokens=True)
