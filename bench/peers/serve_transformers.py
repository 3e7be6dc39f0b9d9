"""`transformers` as the pattern's original uses it: generate() in a thread, its streamer read; one after the other.

`python serve_transformers.py FOLDER PORT DTYPE`.
"""

import sys
import threading

import torch
from chat_server import serve
from transformers import AutoModelForImageTextToText, AutoProcessor, TextIteratorStreamer

# The processor's own class wants torchvision; its slow twin is the same arithmetic on Pillow.
folder, port, dtype = sys.argv[1], int(sys.argv[2]), getattr(torch, sys.argv[3])
processor = AutoProcessor.from_pretrained(folder, use_fast=False)
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
