"""The built-in templates, to the letter."""

from __future__ import annotations

import pytest

from lavatube.errors import InvalidInput, UnsupportedCheckpoint
from lavatube.prompt.chat import Chat, ImageInput, Role, Text, Turn, single_turn
from lavatube.prompt.conversations import CONVERSATIONS, conversation

HUMAN = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
ABLE = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
PICTURE = ImageInput(b"")
SYSTEM = Turn(Role.SYSTEM, (Text("Be brief."),))
QUESTION = single_turn("Hi", b"")
TALK = Chat(
    (
        Turn(Role.USER, (Text("What is it?"), PICTURE)),
        Turn(Role.ASSISTANT, (Text("A <b>cat</b>."),)),
        Turn(Role.USER, (PICTURE, PICTURE, Text("And these?"))),
    )
)
CHATML = "<|im_start|>system\n{}<|im_end|>{e}<|im_start|>user\n<image>\nHi<|im_end|>{e}<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("name", "prompt", "stop"),
    [
        ("llava_v1", f"{HUMAN} USER: <image>\nHi ASSISTANT:", "</s>"),
        ("vicuna_v1", f"{HUMAN.replace('human', 'user')} USER: <image>\nHi ASSISTANT:", "</s>"),
        ("vicuna_hub", "USER: <image>\nHi ASSISTANT:", "</s>"),
        ("llava_v0", f"{HUMAN}###Human: <image>\nHi###Assistant:", "###"),
        ("mistral_instruct", "[INST] <image>\nHi [/INST]", "</s>"),
        ("llava_llama_2", f"[INST] <<SYS>>\n{ABLE}\n<</SYS>>\n\n<image>\nHi [/INST]", "</s>"),
        ("chatml_direct", CHATML.format("Answer the questions.", e=""), "<|im_end|>"),
        ("mistral_direct", CHATML.format("Answer the questions.", e=""), "<|im_end|>"),
        ("qwen_1_5", CHATML.format("You are a helpful assistant.", e="\n"), "<|im_end|>"),
        (
            "mpt",
            CHATML.format(
                "A conversation between a user and an LLM-based AI assistant. "
                "The assistant gives helpful and honest answers.",
                e="",
            ),
            "<|im_end|>",
        ),
        (
            "llava_llama_3",
            (
                f"<|start_header_id|>system<|end_header_id|>\n\n{ABLE}<|eot_id|>"
                "<|start_header_id|>user<|end_header_id|>\n\n<image>\nHi<|eot_id|>"
                "<|start_header_id|>assistant<|end_header_id|>\n\n"
            ),
            "<|eot_id|>",
        ),
    ],
)
def test_one_question_about_one_picture(name: str, prompt: str, stop: str) -> None:
    assert conversation(name).render(QUESTION, "<image>") == prompt
    assert conversation(name).stop == stop


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        (
            "llava_v1",
            (
                f"{HUMAN} USER: <image>\nWhat is it? ASSISTANT: A <b>cat</b>.</s>"
                "USER: <image>\n<image>\nAnd these? ASSISTANT:"
            ),
        ),
        (
            "llava_v0",
            (
                f"{HUMAN}###Human: <image>\nWhat is it?###Assistant: A <b>cat</b>.###"
                "Human: <image>\n<image>\nAnd these?###Assistant:"
            ),
        ),
        (
            "mistral_instruct",
            "[INST] <image>\nWhat is it? [/INST] A <b>cat</b>. </s>[INST] <image>\n<image>\nAnd these? [/INST]",
        ),
        (
            "llava_llama_2",
            (
                f"[INST] <<SYS>>\n{ABLE}\n<</SYS>>\n\n<image>\nWhat is it? [/INST] A <b>cat</b>. </s>"
                "<s>[INST] <image>\n<image>\nAnd these? [/INST]"
            ),
        ),
    ],
)
def test_several_turns_and_pictures(name: str, prompt: str) -> None:
    assert conversation(name).render(TALK, "<image>") == prompt


def test_pictures_with_a_turn_of_their_own() -> None:
    prompt = conversation("llava_v1_mmtag").render(QUESTION, "<image>")
    assert prompt.endswith("</Image>. USER: <Image><image></Image> ASSISTANT: Received.</s>USER: Hi ASSISTANT:")
    assert "natural language.The visual content will be provided" in prompt
    assert "Received." not in conversation("llava_v1_mmtag").render(single_turn("Hi", None), "<image>")


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_the_clients_system_message_replaces_ours(name: str) -> None:
    ours = conversation(name).system
    prompt = conversation(name).render(Chat((SYSTEM, *QUESTION.turns)), "<image>")
    assert prompt.count("Be brief.") == 1
    assert not ours or ours not in prompt
    assert prompt.count("<image>") == 1


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_a_system_message_comes_first_or_not_at_all(name: str) -> None:
    with pytest.raises(InvalidInput):
        conversation(name).render(Chat((*QUESTION.turns, SYSTEM)), "<image>")


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_text_alone(name: str) -> None:
    prompt = conversation(name).render(single_turn("Hi", None), "<image>")
    assert "<image>" not in prompt
    assert prompt.endswith(conversation(name).opening)


def test_llama_3_trims_what_is_said() -> None:
    assert "\n\nHi<|eot_id|>" in conversation("llava_llama_3").render(single_turn("  Hi \n", None), "<image>")


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(UnsupportedCheckpoint, match=r"mistral_orka.*llava_v1"):
        conversation("mistral_orka")
