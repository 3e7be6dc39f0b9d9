"""What a checkpoint says beside its towers: chat template, stop tokens, stop strings, stored precision.

Every function tells `decide` what was decided and why.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from lavatube.checkpoint.files import Folder, Section
from lavatube.errors import UnsupportedCheckpoint
from lavatube.spec import DTYPE_BYTES

Decide = Callable[[str, str, str], None]  # subject, choice, reason

_V0_STOP: Final = "###"


def read_chat_template(folder: Folder, decide: Decide) -> tuple[str | None, str]:
    """The checkpoint's own template and its file, from the first place that has one."""
    text = folder.text("chat_template.jinja")
    if text is not None:
        decide("chat template", "chat_template.jinja", "the file is there")
        return text, "chat_template.jinja"
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        template = _default_template(folder.json(name).get("chat_template"))
        if template is not None:
            decide("chat template", name, "it has chat_template")
            return template, name
    return None, ""


def _default_template(value: object) -> str | None:
    """A template, or the one named default of several."""
    match value:
        case str():
            return value
        case list():
            named = {entry.get("name"): entry.get("template") for entry in value if isinstance(entry, dict)}
            template = named.get("default")
            return template if isinstance(template, str) else None
        case _:
            return None


def read_stop_strings(template: str | None, builtin: str, decide: Decide) -> tuple[str, ...]:
    """What ends an answer beside the stop tokens: v0's mark between turns, which is no token."""
    if template is None and builtin == "llava_v0":
        decide("stop strings", _V0_STOP, f"{builtin} ends turns with it")
        return (_V0_STOP,)
    if template is not None and re.search(rf"{_V0_STOP} ?(Human|USER)", template):
        decide("stop strings", _V0_STOP, "the chat template opens turns with it")
        return (_V0_STOP,)
    return ()


def read_stop_token_ids(sources: Sequence[Section], vocab_size: int, decide: Decide) -> tuple[int, ...]:
    """The stop tokens that the first of the sections names. Raises: UnsupportedCheckpoint."""
    for section in sources:
        value = section.get("eos_token_id")
        if value is not None:
            ids = value if isinstance(value, list) else [value]
            if not all(type(token_id) is int and 0 <= token_id < vocab_size for token_id in ids):
                raise UnsupportedCheckpoint(
                    f"{section.name('eos_token_id')} = {value!r:.80} is no token id of a vocabulary of {vocab_size}."
                )
            decide("stop tokens", ", ".join(map(str, ids)), section.name("eos_token_id"))
            return tuple(ids)
    decide("stop tokens", "2", "no file names one; Llama's own end token")
    return (2,)


def read_dtype(sources: Sequence[Section], decide: Decide) -> str:
    """The precision that the weights are stored in, as far as the sections know."""
    for section in sources:
        for key in ("dtype", "torch_dtype"):
            value = str(section.get(key)).removeprefix("torch.")
            if value in DTYPE_BYTES:
                decide("stored dtype", value, section.name(key))
                return value
    decide("stored dtype", "float32", f"{sources[0].where} names none")
    return "float32"
