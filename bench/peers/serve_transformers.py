"""`transformers` as the pattern's original uses it: generate() in a thread, its streamer read; one after the other.

`python serve_transformers.py FOLDER PORT DTYPE`.
"""

import json
import sys
import threading
from pathlib import Path

import torch
from chat_server import serve
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    LlavaOnevisionProcessor,
    TextIteratorStreamer,
)


class WithoutVideos(LlavaOnevisionProcessor):
    """The processor for pictures alone: videos would want torchvision."""

    def check_argument_for_proper_class(self, argument_name, argument):
        return None if argument is None else super().check_argument_for_proper_class(argument_name, argument)


def processor_of(folder):
    """The image processor's own class wants torchvision; its slow twin is the same arithmetic on Pillow."""
    if AutoConfig.from_pretrained(folder).model_type != "llava_onevision":
        return AutoProcessor.from_pretrained(folder, use_fast=False)
    settings = json.loads(Path(folder, "processor_config.json").read_text())
    del settings["processor_class"]
    images, text = AutoImageProcessor.from_pretrained(folder, use_fast=False), AutoTokenizer.from_pretrained(folder)
    return WithoutVideos(images, text, None, **settings)


folder, port, dtype = sys.argv[1], int(sys.argv[2]), getattr(torch, sys.argv[3])
processor = processor_of(folder)
model = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype).eval()
one_at_a_time = threading.Lock()


def answer(text, picture, max_tokens):
    with one_at_a_time:
        inputs = processor(images=picture, text=f"USER: <image>\n{text} ASSISTANT:", return_tensors="pt")
        streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True)
        arguments = inputs.to(dtype=dtype) | {
            "streamer": streamer,
            "do_sample": False,
            "max_new_tokens": max_tokens,
            "min_new_tokens": max_tokens,
        }
        thread = threading.Thread(target=model.generate, kwargs=arguments)
        thread.start()
        yield from streamer
        thread.join()


serve(port, answer)
