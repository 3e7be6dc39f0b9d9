"""OpenVINO GenAI's continuous batching over an exported folder: `python serve_openvino.py FOLDER PORT`."""

import itertools
import queue
import sys
import threading

import numpy as np
import openvino
import openvino_genai
from chat_server import serve

folder, port = sys.argv[1], int(sys.argv[2])
scheduling = openvino_genai.SchedulerConfig()
scheduling.cache_size = 1  # GB
scheduling.enable_prefix_caching = True
pipeline = openvino_genai.ContinuousBatchingPipeline(folder, scheduling, "CPU")
tokenizer = pipeline.get_tokenizer()
numbers = itertools.count()
asked = queue.Queue()


def answer(text, picture, max_tokens):
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens, config.ignore_eos, config.do_sample = max_tokens, True, False
    pieces = queue.Queue()
    tensor = openvino.Tensor(np.array(picture)[None])
    asked.put((pieces, next(numbers), f"USER: <ov_genai_image_0>\n{text} ASSISTANT:", [tensor], config))
    count = 0
    while count < max_tokens:
        token_ids = pieces.get()
        count += len(token_ids)
        yield tokenizer.decode(token_ids)


def run():
    """All that touches the pipeline happens here, between two steps."""
    streams = []
    while True:
        while not asked.empty() or not streams:
            pieces, *request = asked.get()
            streams.append((pipeline.add_request(*request), pieces))
        pipeline.step()
        for handle, pieces in streams:
            while handle.can_read():
                for output in handle.read().values():
                    pieces.put(output.generated_ids)
        running = openvino_genai.GenerationStatus.RUNNING
        streams = [(handle, pieces) for handle, pieces in streams if handle.get_status() == running]


threading.Thread(target=run, daemon=True).start()
serve(port, answer)
