"""Small real things for the tests of prompt/: pictures, tokenizers of both kinds, a spec."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest
import sentencepiece
from PIL import Image, ImageDraw
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from lavatube.geometry import Detail, plan_cut
from lavatube.prompt.pixels import Tiles, tile
from lavatube.spec import LanguageSpec, ModelSpec, PixelMode, PixelSpec, ProjectorSpec, VisionSpec

SPECIALS: Final = ("<unk>", "<s>", "</s>", "<pad>", "<image>")
UNK, BOS, EOS, PAD, IMAGE = range(5)
SENTENCES: Final = (
    "USER: What is in the picture? ASSISTANT: There is a red circle above a blue square.",
    "USER: How many stars are there, and where? ASSISTANT: Three, on the left.",
)
MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
STD: Final = (0.26862954, 0.26130258, 0.27577711)
KIT: Final = Path(__file__).parents[3] / "shared" / "bad_inputs"

needs_kit = pytest.mark.skipif(not KIT.is_dir(), reason="the kit of hostile inputs is not beside this repository")


def scene(width: int = 64, height: int = 48, mode: str = "RGB") -> Image.Image:
    """Red, green, blue and white quarters: no rotation or mirroring of it is itself."""
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle([0, 0, width // 2 - 1, height // 2 - 1], fill=(255, 0, 0))
    draw.rectangle([width // 2, 0, width - 1, height // 2 - 1], fill=(0, 255, 0))
    draw.rectangle([0, height // 2, width // 2 - 1, height - 1], fill=(0, 0, 255))
    return image.convert(mode)


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, color: int, data: bytes, extra: bytes = b"") -> bytes:
    """A PNG by hand: for headers and contents that no encoder writes."""
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + extra + png_chunk(b"IDAT", zlib.compress(data)) + png_chunk(b"IEND", b"")


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def scan_bomb(scans: int = 2000) -> bytes:
    """A small progressive JPEG whose last scan comes again and again: each costs a walk over all coefficients."""
    data = encoded(scene(1600, 1600), "JPEG", progressive=True, quality=85)
    last = data.rfind(b"\xff\xda")
    return data[:-2] + data[last:-2] * scans + data[-2:]


def byte_level_tokenizer(*, has_start: bool = True) -> Tokenizer:
    """GPT-2's kind: every text is bytes, and every byte has an id."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIALS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    if has_start:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    return tokenizer


def sentencepiece_tokenizer() -> Tokenizer:
    """Llama's kind: ▁ for spaces, one in front, and bytes for what has no piece."""
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trained.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=360, special_tokens=[*SPECIALS, *bytes_], show_progress=False)
    trained.train_from_iterator(SENTENCES, trainer)
    config = json.loads(trained.to_str())
    config["added_tokens"] = config["added_tokens"][: len(SPECIALS)]
    config["model"] |= {"byte_fallback": True, "fuse_unk": True}
    config["pre_tokenizer"] = None
    tokenizer = Tokenizer.from_str(json.dumps(config))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    return tokenizer


def write_tokenizer(folder: Path, tokenizer: Tokenizer) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names), encoding="utf-8")
    return folder


def pixel_spec(mode: PixelMode = "crop", size: int = 32, resize: int | None = None) -> PixelSpec:
    return PixelSpec(mode=mode, size=size, resize=resize or size, mean=MEAN, std=STD, rescale=1 / 255)


def write_sentencepiece(folder: Path, user_defined_symbols: Sequence[str] = (), **config: object) -> Path:
    """A tokenizer.model as Llama's is made: byte fallback, no normalisation, all spaces kept."""
    options = {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity"}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(
            [*SENTENCES, "###Human: Hi there###Assistant: [INST] A picture, and a star. [/INST]"] * 4
        ),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=420,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        hard_vocab_limit=False,
        user_defined_symbols=list(user_defined_symbols),
        minloglevel=2,
        num_threads=1,
        **options,
    )
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "tokenizer_class": "LlamaTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names | config))
    return folder


def cut(image: Image.Image, spec: PixelSpec, num_images: int = 1, detail: Detail = "high") -> Tiles:
    """The squares of one image."""
    return tile(image, spec, plan_cut(spec, *image.size, num_images=num_images, detail=detail))


def model_spec(*, template: str | None = None, max_positions: int = 512, mode: PixelMode = "crop") -> ModelSpec:
    """A LLaVA that was never trained: 16 tokens a picture."""
    return ModelSpec(
        family="llava",
        layout="llava-hf",
        fidelity="hf",
        merge="flat",
        has_newline=False,
        vision=VisionSpec("clip", 32, 8, 32, 64, 3, 4, 1e-5, "quick_gelu", (-2,), "patch"),
        pixels=pixel_spec(mode),
        projector=ProjectorSpec(2, "gelu", has_bias=True),
        language=LanguageSpec(
            "llama", 64, 96, 2, 4, 2, 16, 400, 1e-5, 10000.0, max_positions, "silu", has_tied_embeddings=False
        ),
        image_token_id=IMAGE,
        stop_token_ids=(EOS,),
        dtype="float32",
        template=template,
        builtin_template="llava_v1",
        decisions=(),
    )
