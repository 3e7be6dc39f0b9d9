"""The child that turns a wanted structure into a grammar, and tries it: a hostile schema costs it its life, not ours.

`python -m lavatube.prompt.structure_child`. The grammar is Lark in llguidance's dialect. It lets the model write a text
in the tokens that it likes best (`no_forcing`), so that no tokenizer is needed to tell which ones may come next.
"""

from __future__ import annotations

import json
from typing import Final

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, regex_to_lark

from lavatube.prompt.sandbox import serve_frames
from lavatube.prompt.structure import BuildReply, Built, Unusable, Wanted, encoder, wanted_decoder

# Between the elements of JSON: enough for one value a line, too little for an answer of blanks.
WHITESPACE: Final = r"[ \n]{0,24}"
_END: Final = 256
_SPACE: Final = ord(" ")


class _Bytes:
    """A vocabulary of all bytes and an end, as the library reads one."""

    is_tokenizer_wrapper = True
    bos_token_id = None
    eos_token_id = _END
    special_token_ids = (_END,)
    tokens = (*(bytes([byte]) for byte in range(256)), b"\xff<end>")

    def __call__(self, text: str) -> list[int]:
        return list(text.encode())


def build(wanted: Wanted) -> BuildReply:
    """The grammar of a structure, once the library has taken it and said how an answer may begin."""
    try:
        rule = _rule(wanted.kind, wanted.text)
    except (ValueError, TypeError):
        return Unusable("it is not the JSON that it should be")
    grammar = _grammar("", rule)
    tokenizer = LLTokenizer(_Bytes())  # type: ignore[arg-type]
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=LLParserLimits(verbose_errors=False))
    mask = b"" if matcher.is_error() else matcher.compute_bitmask()
    if matcher.is_error():
        return Unusable(_first_words(matcher.get_error()))
    if not any(mask) or matcher.is_stopped():
        return Unusable("no text fits it")
    if wanted.may_begin_with_space:
        # The space that gets lost must not be one that the structure asks for.
        has_own_space = mask[_SPACE // 8] >> _SPACE % 8 & 1
        grammar = _grammar('" " ' if has_own_space else '" "? ', rule)
    return Built(grammar)


def _grammar(space: str, rule: str) -> str:
    return f'%llguidance {{"no_forcing": true}}\nstart: {space}answer\nanswer: {rule}\n'


def _rule(kind: str, text: str) -> str:
    match kind:
        case "json_schema":
            return "%json " + json.dumps(json.loads(text) | {"x-guidance": {"whitespace_pattern": WHITESPACE}})
        case "regex":
            return f"/{regex_to_lark(text)}/"
        case _:
            return " | ".join(json.dumps(choice, ensure_ascii=False) for choice in json.loads(text))


def _first_words(error: str) -> str:
    """Without the excerpt of the grammar: its lines are ours, not the client's."""
    line = error.partition("\n")[0].removeprefix("at ").partition(": ")
    return (line[2] or line[0])[:300]


if __name__ == "__main__":
    serve_frames(lambda body: encoder.encode(build(wanted_decoder.decode(body))))
