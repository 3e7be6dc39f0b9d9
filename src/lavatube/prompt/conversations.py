"""The conversation templates that LLaVA checkpoints were trained with: a Chat in, one string out.

For checkpoints that bring no template of their own. Each is data: what stands around a system sentence, a user's turn
and an answer; what opens the answer to come; and what ends it. Knows no tokenizer and no checkpoint.

Source: haotian-liu/LLaVA@c121f04 and LLaVA-VL/LLaVA-NeXT@df17966, llava/conversation.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from lavatube.errors import InvalidInput, UnsupportedCheckpoint
from lavatube.prompt.chat import Chat, ImageInput, Role, Text, Turn

Around = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Conversation:
    """One template. `system` is what it says when the client gives no system message; empty: nothing at all.

    between: stands before each user's turn but the first. is_system_in_turn: the system sentence is the beginning of
    the first user's turn. has_image_turn: pictures get a turn of their own, which is answered with "Received.".
    """

    system: str
    system_around: Around
    user_around: Around
    assistant_around: Around
    opening: str
    stop: str
    between: str = ""
    is_system_in_turn: bool = False
    has_image_turn: bool = False
    is_trimmed: bool = False

    def render(self, chat: Chat, picture: str) -> str:
        """The prompt up to where the answer begins; `picture` is written for each of the chat's.

        Raises InvalidInput for a system message that is not the first.
        """
        said = list(self._said(chat, picture))
        system = said.pop(0)[1] if said and said[0][0] is Role.SYSTEM else self.system
        preface = self._wrap(self.system_around, system) if system else ""
        pieces = [] if self.is_system_in_turn else [preface]
        is_first = True
        for role, text in said:
            if role is Role.SYSTEM:
                raise InvalidInput(
                    "This model takes one system message, before all others.", remedy="Put them into one, at the start."
                )
            if role is Role.ASSISTANT:
                pieces.append(self._wrap(self.assistant_around, text))
                continue
            head = preface if self.is_system_in_turn and is_first else ""
            pieces.append(("" if is_first else self.between) + self._wrap(self.user_around, head + text))
            is_first = False
        return "".join([*pieces, self.opening])

    def _said(self, chat: Chat, picture: str) -> Iterator[tuple[Role, str]]:
        for turn in chat.turns:
            pictures = sum(isinstance(part, ImageInput) for part in turn.parts)
            if pictures and self.has_image_turn:
                yield turn.role, f"<Image>{picture * pictures}</Image>"
                yield Role.ASSISTANT, "Received."
                yield turn.role, text_of(turn)
            else:
                yield turn.role, pictures_first(turn, picture)

    def _wrap(self, around: Around, text: str) -> str:
        return around[0] + (text.strip() if self.is_trimmed else text) + around[1]


def pictures_first(turn: Turn, picture: str) -> str:
    """Pictures first, each on a line of its own: where LLaVA was trained to find them."""
    return f"{picture}\n" * sum(isinstance(part, ImageInput) for part in turn.parts) + text_of(turn)


def text_of(turn: Turn) -> str:
    return "\n".join(part.text for part in turn.parts if isinstance(part, Text))


def conversation(name: str) -> Conversation:
    """Raises UnsupportedCheckpoint for a name that no template has."""
    try:
        return CONVERSATIONS[name]
    except KeyError:
        raise UnsupportedCheckpoint(
            f"There is no conversation template {name!r}.", remedy=f"There are: {', '.join(sorted(CONVERSATIONS))}."
        ) from None


def _single(system: str) -> Conversation:
    """Style SINGLE, as in v0: every part ends with ###."""
    return Conversation(
        system, ("", "###"), ("Human: ", "###"), ("Assistant: ", "###"), opening="Assistant:", stop="###"
    )


def _two(system: str) -> Conversation:
    """Style TWO, as in Vicuna v1: a space after a user's turn, the end token after an answer."""
    return Conversation(system, ("", " "), ("USER: ", " "), ("ASSISTANT: ", "</s>"), opening="ASSISTANT:", stop="</s>")


def _llama_2(system: str, between: str = "<s>") -> Conversation:
    """Style LLAMA_2: the tokenizer's own start token stands before the first turn, `between` before the others."""
    return Conversation(
        system,
        ("<<SYS>>\n", "\n<</SYS>>\n\n"),
        ("[INST] ", " [/INST]"),
        (" ", " </s>"),
        opening="",
        stop="</s>",
        between=between,
        is_system_in_turn=True,
    )


def _chatml(system: str, line_end: str = "") -> Conversation:
    """ChatML; styles MPT without, CHATML with a newline after the end of a turn."""
    end = "<|im_end|>"
    return Conversation(
        system,
        ("<|im_start|>system\n", end + line_end),
        ("<|im_start|>user\n", end + line_end),
        ("<|im_start|>assistant\n", end + line_end),
        opening="<|im_start|>assistant\n",
        stop=end,
    )


def _llama_3(system: str) -> Conversation:
    def around(role: str) -> Around:
        return f"<|start_header_id|>{role}<|end_header_id|>\n\n", "<|eot_id|>"

    return Conversation(
        system,
        around("system"),
        around("user"),
        around("assistant"),
        opening=around("assistant")[0],
        stop="<|eot_id|>",
        is_trimmed=True,
    )


def _zephyr(system: str) -> Conversation:
    return Conversation(
        system,
        ("<|system|>\n", "</s>"),
        ("<|user|>\n", "</s>"),
        ("<|assistant|>\n", "</s>"),
        opening="<|assistant|>\n",
        stop="</s>",
    )


def _curious(who: str) -> str:
    return (
        f"A chat between a curious {who} and an artificial intelligence assistant. "
        f"The assistant gives helpful, detailed, and polite answers to the {who}'s questions."
    )


# Without spaces between its sentences, as it was trained.
_FORMAT: Final = "The visual content will be provided with the following format: <Image>visual content</Image>."
_MMTAG: Final = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant is able to understand the visual content that the user provides, and assist the user with a variety "
    f"of tasks using natural language.{_FORMAT}"
)
_ABLE: Final = (
    "You are a helpful language and vision assistant. "
    "You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
)
_ANSWER: Final = "Answer the questions about the visual content that the user provides."
_SAFE: Final = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being safe.  "
    "Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal content. "
    "Please ensure that your responses are socially unbiased and positive in nature.\n\n"
    "If a question does not make any sense, or is not factually coherent, explain why instead of answering something "
    "not correct. If you don't know the answer to a question, please don't share false information."
)
_MPT: Final = (
    "A conversation between a user and an LLM-based AI assistant. The assistant gives helpful and honest answers."
)
_ORCA: Final = (
    "You are MistralOrca, a large language model trained by Alignment Lab AI. "
    "Write out your reasoning step-by-step to be sure you get the right answers!"
)
_QWEN_2_5: Final = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."

# `v0` alone is missing: its two example turns, about energy, were for the language model without pictures.
CONVERSATIONS: Final[Mapping[str, Conversation]] = {
    "llava_v0": _single(_curious("human")),
    "llava_v0_mmtag": replace(_single(_MMTAG), has_image_turn=True),
    "llava_v1": _two(_curious("human")),
    "llava_v1_mmtag": replace(_two(_MMTAG), has_image_turn=True),
    "vicuna_v1": _two(_curious("user")),
    "vicuna_hub": _two(""),  # the conversions of 1.5 and of 1.6 on Vicuna: llava_v1 without its sentence
    "llama_2": _llama_2(_SAFE),
    "llava_llama_2": _llama_2(_ABLE),
    "llava_llama_2_simple": _llama_2(_ANSWER),
    "llava_llama_2_mmtag": replace(_llama_2(_ANSWER + _FORMAT), has_image_turn=True),
    "llava_llama_3": _llama_3(_ABLE),
    "mistral_instruct": _llama_2("", between=""),
    "mistral_orca": _chatml(_ORCA),
    "mistral_zephyr": _zephyr("You are a helpful AI assistant."),
    "mpt": _chatml(_MPT),
    "chatml_direct": _chatml("Answer the questions."),
    "mistral_direct": _chatml("Answer the questions."),
    "qwen_1_5": _chatml("You are a helpful assistant.", "\n"),
    "qwen_2": _chatml("You are a helpful assistant.", "\n"),
    "qwen_2_5": _chatml(_QWEN_2_5, "\n"),
}
