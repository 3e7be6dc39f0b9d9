"""A follow-up question, from the stock client to the engine's process and back: what was reused is reported."""

from __future__ import annotations

import re
import time

import httpx
from openai import OpenAI

from tests.flow.conftest import data_url
from tests.flow.server import Server

BLOCK_SIZE = 16


def test_a_follow_up_question_reports_what_was_there(tiny: Server) -> None:
    picture = {"type": "image_url", "image_url": {"url": data_url("shapes.png")}}
    usages, answers = [], []
    with OpenAI(base_url=f"{tiny.url}/v1", api_key="none", max_retries=0) as client:
        for question in ("What is at the top?", "How many squares are there?", "How many squares are there?"):
            content = [picture, {"type": "text", "text": question}]
            completion = client.chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": content}], temperature=0, max_tokens=20
            )
            usages.append(completion.usage)
            answers.append(completion.choices[0].message.content)
    for usage in usages[1:]:
        details = usage.prompt_tokens_details
        assert details.image_tokens - BLOCK_SIZE < details.cached_tokens < usage.prompt_tokens
    assert answers[1] == answers[2]
    deadline = time.monotonic() + 20
    while not re.search(r"lavatube_engine_cached_tokens_total [1-9]", httpx.get(f"{tiny.url}/metrics").text):
        assert time.monotonic() < deadline, "the engine's next heartbeat tells"
        time.sleep(0.1)
