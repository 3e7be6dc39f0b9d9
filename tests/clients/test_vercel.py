"""The AI SDK of Vercel, through its provider for servers like OpenAI's, and through the one for OpenAI's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.clients.tour import javascript_tour
from tests.flow.server import Server

HEAD = """
import { generateObject, generateText, streamText, jsonSchema } from "ai";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
const provider = createOpenAICompatible({ name: "lavatube", baseURL: process.env.BASE_URL, apiKey: process.env.KEY,
    includeUsage: true, supportsStructuredOutputs: true });
const model = provider("tiny");
const messages = [{ role: "user", content: [
    { type: "image", image: PICTURE }, { type: "text", text: QUESTION } ] }];
const common = { model, temperature: 0, maxRetries: 0 };
const openai = createOpenAI({ baseURL: process.env.BASE_URL, apiKey: process.env.KEY });
"""


@pytest.fixture(scope="module")
def tour(server: Server, node: Callable[..., Any]) -> Callable[[str], Any]:
    """What a script reports that has a model and the tour's questions."""
    return javascript_tour(node, server, HEAD)


def test_generate_and_stream_text(tour: Callable[[str], Any]) -> None:
    found = tour("""
        const whole = await generateText({ ...common, system: "Be brief.", messages });
        const stream = streamText({ ...common, system: "Be brief.", messages });
        const pieces = [];
        for await (const piece of stream.textStream) pieces.push(piece);
        const again = await generateText({ ...common, messages: [
            ...messages, ...whole.response.messages, { role: "user", content: FOLLOW_UP } ] });
        report({ whole: whole.text, reason: whole.finishReason, usage: whole.usage, pieces,
            streamReason: await stream.finishReason, streamUsage: await stream.usage, again: again.text });
    """)
    assert "".join(found["pieces"]) == found["whole"] != ""
    assert len(found["pieces"]) > 1
    assert found["reason"] == found["streamReason"] == "stop"
    for name in ("inputTokens", "outputTokens", "totalTokens"):
        assert found["usage"][name] == found["streamUsage"][name] > 0
    assert found["again"]


@pytest.mark.parametrize("model", ['openai("tiny")', 'openai.chat("tiny")'])
def test_the_provider_for_openai_itself(tour: Callable[[str], Any], model: str) -> None:
    """Of responses it sends back a reference to an answer instead of the answer."""
    found = tour(f"""
        const asking = {{ ...common, model: {model} }};
        const whole = await generateText({{ ...asking, messages }});
        const pieces = [];
        for await (const piece of streamText({{ ...asking, messages }}).textStream) pieces.push(piece);
        const again = await generateText({{ ...asking, messages: [
            ...messages, ...whole.response.messages, {{ role: "user", content: FOLLOW_UP }} ] }});
        report({{ whole: whole.text, pieces, usage: whole.usage, again: again.text, more: again.usage }});
    """)
    assert "".join(found["pieces"]) == found["whole"] != ""
    assert found["again"]
    assert found["more"]["inputTokens"] > found["usage"]["inputTokens"]


def test_an_object_and_an_error(tour: Callable[[str], Any]) -> None:
    found = tour("""
        const schema = jsonSchema({ type: "object", properties: { number: { enum: ["one", "two", "three"] } },
            required: ["number"], additionalProperties: false });
        const { object } = await generateObject({ ...common, schema, messages });
        let error;
        try { await generateText({ ...common, model: provider("other"), messages }); }
        catch (caught) { error = [caught.name, caught.statusCode, caught.message, caught.isRetryable]; }
        report({ object, error });
    """)
    assert found["object"]["number"] in ("one", "two", "three")
    name, status, message, is_retryable = found["error"]
    assert (name, status, is_retryable) == ("AI_APICallError", 404, False)
    assert message == "There is no such model here. This server serves tiny."
