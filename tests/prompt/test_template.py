"""Chats as the text that a checkpoint was trained on: its own template, tamed, or the built-in one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from lavatube.errors import InvalidInput, UnsupportedCheckpoint
from lavatube.prompt.chat import Chat, ImageInput, Role, Text, Turn, single_turn
from lavatube.prompt.template import LIMITS, JinjaTemplate

# The template of llava-hf/llava-1.5, with its marks for training.
LLAVA_HF = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{# Render all images first #}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}"
    "{% endfor %}{% else %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ content['text'] + ' '}}{% endgeneration %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
STRINGS = (
    "{{ bos_token }}{% for m in messages %}\n"
    "    {%- if m['role'] == 'system' %}{{ raise_exception('No system\x07 here!') }}{% endif %}\n"
    "[{{ m['role'] }}] {{ m['content'] | trim }}{{ eos_token }}\n"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
PICTURE = ImageInput(b"")
TALK = Chat(
    (
        Turn(Role.USER, (Text("What is it?"), PICTURE)),
        Turn(Role.ASSISTANT, (Text("A <b>cat</b> & 文."),)),
        Turn(Role.USER, (PICTURE, PICTURE, Text(" And these? "))),
    )
)
SYSTEM = Turn(Role.SYSTEM, (Text("Be brief."),))


@contextmanager
def jinja(source: str) -> Iterator[JinjaTemplate]:
    template = JinjaTemplate(source, "<image>", {"bos_token": "<s>", "eos_token": "</s>"})
    try:
        yield template
    finally:
        template.close()


def messages(chat: Chat) -> list[dict[str, object]]:
    def part(value: Text | ImageInput) -> dict[str, str]:
        return {"type": "text", "text": value.text} if isinstance(value, Text) else {"type": "image"}

    return [{"role": turn.role.value, "content": [part(value) for value in turn.parts]} for turn in chat.turns]


TINY = (Path(__file__).parents[2] / "src/lavatube/tiny/chat_template.jinja").read_text()


@pytest.mark.parametrize("source", [LLAVA_HF, TINY, LLAVA_HF + "{{ {'a': ['<é>', 1]} | tojson }}"])
def test_parity_with_transformers(source: str) -> None:
    chats = [TALK, Chat((SYSTEM, *TALK.turns)), single_turn("", None)]
    wanted, _ = render_jinja_template(
        [messages(chat) for chat in chats],
        chat_template=source,
        add_generation_prompt=True,
        bos_token="<s>",
        eos_token="</s>",
    )
    with jinja(source) as template:
        assert [template.render(chat) for chat in chats] == wanted


def test_a_template_that_wants_strings_gets_strings() -> None:
    with jinja(STRINGS) as template:
        assert template.render(TALK) == (
            "<s>[user] <image>\nWhat is it?</s>\n"
            "[assistant] A <b>cat</b> & 文.</s>\n"
            "[user] <image>\n<image>\n And these?</s>\n"
            "[assistant]"
        )


def test_a_system_message_needs_a_place() -> None:
    ignores = LLAVA_HF.replace(
        "{% for message in messages %}", "{% for message in messages if message.role != 'system' %}"
    )
    for source in (STRINGS, ignores):
        with jinja(source) as template, pytest.raises(InvalidInput, match="system"):
            template.render(Chat((SYSTEM, *TALK.turns)))
    with jinja(LLAVA_HF) as template:
        assert "Be brief." in template.render(Chat((SYSTEM, *TALK.turns)))


def test_what_a_template_says_no_to_is_the_clients_to_change() -> None:
    strict = "{% if messages | length > 1 %}{{ raise_exception('Only\x07 one turn.' * 30) }}{% endif %}" + LLAVA_HF
    with jinja(strict) as template:
        with pytest.raises(InvalidInput, match=r"refuses this conversation: Only one turn\.") as caught:
            template.render(TALK)
        assert len(caught.value.message) < 300


def test_what_a_template_can_not_do_is_said_without_its_reasons() -> None:
    fragile = "{% if messages | length > 1 %}{{ messages[0].no.such.thing }}{% endif %}" + LLAVA_HF
    with jinja(fragile) as template, pytest.raises(InvalidInput) as caught:
        template.render(TALK)
    assert caught.value.message == "The model's chat template can't render this conversation."


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ messages.append(1) }}",
        "{{ '{0.__class__.__mro__}'.format(1) }}",
        "{% set n = namespace(__class__=1) %}",
        "{% set n = namespace() %}{% set n._x = 1 %}",
        "{% include '/etc/passwd' %}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
        "{{ 'a' * 10 ** 10 }}",
        "{{ lipsum() }}",
        "{{",
    ],
)
def test_templates_that_reach_for_more_stop_the_start(attack: str) -> None:
    with pytest.raises(UnsupportedCheckpoint):
        JinjaTemplate(LLAVA_HF + attack, "<image>", {})


def test_templates_that_run_for_ever_stop_the_start() -> None:
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    started = time.monotonic()
    with pytest.raises(UnsupportedCheckpoint, match="too long"):
        JinjaTemplate(LLAVA_HF + loop, "<image>", {}, replace(LIMITS, cpu_limit_s=0.5))
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("source", ["", "hello", "{{ messages }}", "{{ messages[0]['content'] }}<image>"])
def test_templates_without_place_for_a_picture_and_a_question_stop_the_start(source: str) -> None:
    with pytest.raises(UnsupportedCheckpoint, match="picture"):
        JinjaTemplate(source, "<image>", {})
