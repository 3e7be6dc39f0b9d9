"""The official JavaScript client of OpenAI, on its whole tour."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.clients.tour import javascript_tour
from tests.flow.server import Server

HEAD = """
import OpenAI from "openai";
const client = new OpenAI({ baseURL: process.env.BASE_URL, apiKey: process.env.KEY, maxRetries: 0 });
const messages = [{ role: "user", content: [
    { type: "image_url", image_url: { url: PICTURE, detail: "high" } }, { type: "text", text: QUESTION } ] }];
const input = [{ role: "user", content: [
    { type: "input_image", image_url: PICTURE, detail: "auto" }, { type: "input_text", text: QUESTION } ] }];
const common = { model: "tiny", temperature: 0 };
const textOf = (events) => events.filter((event) => event.type === "response.output_text.delta")
    .map((event) => event.delta).join("");
const failed = async (promise) => { try { await promise; } catch (error) {
    return [error.constructor.name, error.status, error.code, error.param]; } };
"""


@pytest.fixture(scope="module")
def tour(server: Server, node: Callable[..., Any]) -> Callable[[str], Any]:
    """What a script reports that has a client and the tour's questions."""
    return javascript_tour(node, server, HEAD)


def test_models_and_errors(tour: Callable[[str], Any]) -> None:
    found = tour("""
        const ids = [];
        for await (const model of client.models.list()) ids.push(model.id);
        const stranger = new OpenAI({ baseURL: process.env.BASE_URL, apiKey: "wrong", maxRetries: 0 });
        report({
            ids,
            one: (await client.models.retrieve("tiny")).object,
            none: await failed(client.models.retrieve("acme/llava")),
            key: await failed(stranger.models.list()),
            tools: await failed(client.responses.create({ ...common, input: "x", tools: [{ type: "web_search" }] })),
        });
    """)
    assert (found["ids"], found["one"]) == (["tiny"], "model")
    assert found["none"] == ["NotFoundError", 404, "model_not_found", "model"]
    assert found["key"][:2] == ["AuthenticationError", 401]
    assert found["tools"] == ["BadRequestError", 400, "invalid_input", "tools"]


def test_chat(tour: Callable[[str], Any]) -> None:
    found = tour("""
        const whole = await client.chat.completions.create({ ...common, messages });
        const chunks = [];
        const stream = await client.chat.completions.create(
            { ...common, messages, stream: true, stream_options: { include_usage: true } });
        for await (const chunk of stream) chunks.push(chunk);
        const runner = client.chat.completions.stream({ ...common, messages });
        const final = await runner.finalChatCompletion();
        const again = await client.chat.completions.create({ ...common, messages: [
            ...messages, final.choices[0].message, { role: "user", content: FOLLOW_UP } ] });
        report({
            whole: whole.choices[0].message.content,
            usage: whole.usage,
            streamed: chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join(""),
            last: chunks.at(-1),
            helped: final.choices[0].message.content,
            again: again.choices[0].message.content,
        });
    """)
    assert found["whole"] == found["streamed"] == found["helped"] != ""
    assert found["usage"] == found["last"]["usage"] | {"prompt_tokens_details": found["usage"]["prompt_tokens_details"]}
    assert found["again"]


def test_responses(tour: Callable[[str], Any]) -> None:
    found = tour("""
        const chat = await client.chat.completions.create({ ...common, messages });
        const whole = await client.responses.create({ ...common, input });
        const events = [];
        for await (const event of await client.responses.create({ ...common, input, stream: true })) events.push(event);
        const helped = await client.responses.stream({ ...common, input }).finalResponse();
        const next = await client.responses.create({ ...common, input: FOLLOW_UP, previous_response_id: whole.id });
        const items = [];
        for await (const item of client.responses.inputItems.list(next.id, { order: "asc" })) items.push(item.role);
        const again = await client.responses.retrieve(whole.id);
        await client.responses.delete(next.id);
        report({
            chat: chat.choices[0].message.content,
            texts: [whole.output_text, helped.output_text, again.output_text, textOf(events)],
            numbers: events.map((event) => event.sequence_number),
            last: events.at(-1).type,
            next: next.output_text,
            items,
            gone: await failed(client.responses.retrieve(next.id)),
        });
    """)
    assert found["texts"] == [found["chat"]] * 4
    assert found["numbers"] == sorted(set(found["numbers"]))
    assert found["last"] == "response.completed"
    assert found["next"]
    assert found["items"] == ["user", "assistant", "user"]
    assert found["gone"][:2] == ["NotFoundError", 404]


def test_background(tour: Callable[[str], Any]) -> None:
    found = tour("""
        const seen = [];
        const stream = await client.responses.create({ ...common, input, text: LONG, background: true, stream: true });
        for await (const event of stream) { seen.push(event); if (seen.length === 6) break; }
        const { id } = seen[0].response;
        for await (const event of await client.responses.retrieve(
            id, { stream: true, starting_after: seen.at(-1).sequence_number })) seen.push(event);
        const long = await client.responses.create({ ...common, input, text: LONG, background: true });
        const cancelled = await client.responses.cancel(long.id);
        report({
            numbers: seen.map((event) => event.sequence_number),
            text: textOf(seen),
            whole: (await client.responses.retrieve(id)).output_text,
            states: [long.status, cancelled.status],
        });
    """)
    assert found["numbers"] == sorted(set(found["numbers"]))
    assert found["text"] == found["whole"]
    assert len(found["text"]) > 100
    assert found["states"] == ["queued", "cancelled"]
