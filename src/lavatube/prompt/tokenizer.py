"""A checkpoint's tokenizer: a rendered prompt in, ids out, and a user's text can never become a control token.

`</s>` or `<image>` that a user types is text; the library would make control tokens of it. Three steps keep them apart:

1. `shield` swaps, in a user's text, every letter that control tokens are written with for a stand-in. Nothing that is
   then found in the rendered template, in whole or in part, was typed by a user.
2. `encode_prompt` swaps the control tokens that are found for one private character each, and the stand-ins back.
3. The whole is encoded by a sealed copy of the tokenizer, which knows control tokens by those private characters only.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

from lavatube.errors import UnsupportedCheckpoint
from lavatube.prompt.json_model import JsonModel
from lavatube.prompt.named_tokens import NamedTokens, read_named_tokens
from lavatube.prompt.sentencepiece_model import SentencePieceModel
from lavatube.prompt.vocabulary import Vocabulary

# Private-use characters that are ours: one for each control token, then the stand-ins. Typed by a user, they are noise.
_CONTROL_BASE: Final = 0x108000
_STAND_IN_BASE: Final = 0x10C000
# Bounds the tables that have a row for each id.
MAX_TOKEN_IDS: Final = 2**22
# What stands for a picture where the vocabulary has no token for it.
_PICTURE: Final = "\U0010fffd"
_OURS: Final = re.compile("[\U00108000-\U0010ffff]")
_REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True)
class TokenizerRules:
    """How one checkpoint's prompts become ids.

    is_legacy: of sentencepiece, text after a control token gets a space in front. is_chunked: the pieces between
    pictures are encoded each on its own, as the original does it; else the prompt as a whole, as the hub does.
    image_token_id: of the picture's placeholder; it may be past the end of the vocabulary.
    """

    kind: Literal["json", "sentencepiece"] = "json"
    is_legacy: bool = False
    is_chunked: bool = False
    image_token_id: int | None = None


class Sealed(Protocol):
    """A tokenizer that knows control tokens by their private characters."""

    def encode(self, sealed: str, *, adds_start: bool) -> list[int]: ...


class Tokenizer:
    """The tokenizer of one checkpoint. Any thread may call.

    `control_ids` are control tokens whatever its files say about them: the image's, and those that stop.
    """

    def __init__(self, folder: Path, control_ids: Collection[int] = (), rules: TokenizerRules | None = None) -> None:
        self._rules = rules = TokenizerRules() if rules is None else rules
        named = read_named_tokens(folder)
        self.named_tokens = named.roles
        model = _read_model(folder, named, rules)
        self._tokens = model.tokens
        if max(self._tokens, default=0) >= MAX_TOKEN_IDS:
            raise UnsupportedCheckpoint(
                f"The tokenizer has a token {max(self._tokens)}; {MAX_TOKEN_IDS} ids are the most that are served."
            )
        image_ids = () if rules.image_token_id is None else (rules.image_token_id,)
        control_ids = {*model.special_ids, *control_ids, *image_ids}
        controls = sorted(token_id for token_id in control_ids if self.token(token_id).strip())
        if len(controls) > _STAND_IN_BASE - _CONTROL_BASE:
            raise UnsupportedCheckpoint(f"The tokenizer has {len(controls)} special tokens, more than are served.")
        self._control_ids = {self.token(token_id): token_id for token_id in controls}
        self._private = {self.token(token_id): chr(_CONTROL_BASE + place) for place, token_id in enumerate(controls)}
        self.vocabulary = Vocabulary(self._tokens, frozenset(controls), model.decoder)
        letters = sorted({char for control in self._private for char in control if not char.isspace()})
        self._stand_ins = {ord(char): chr(_STAND_IN_BASE + place) for place, char in enumerate(letters)}
        self._letters = {ord(stand_in): chr(char) for char, stand_in in self._stand_ins.items()}
        self._control = re.compile("|".join(map(re.escape, sorted(self._private, key=len, reverse=True))) or r"(?!)")
        picture = "" if rules.image_token_id is None else self.token(rules.image_token_id)
        self.image_text = picture or _PICTURE
        """What a template writes where a picture stands."""
        image = None if picture or rules.image_token_id is None else (_PICTURE, rules.image_token_id)
        self._sealed: Sealed = model.seal(self._private, controls, image)
        self._check_seal()

    def token(self, token_id: int) -> str:
        """How a token is written in tokenizer.json; empty where there is none."""
        return self._tokens.get(token_id, "")

    def control_id(self, text: str) -> int | None:
        """The id of the control token that is written so, if there is one."""
        return self._control_ids.get(text)

    def shield(self, text: str) -> str:
        """A user's text as it goes through a template: nothing of it can be taken for a control token."""
        return _OURS.sub(_REPLACEMENT, text).translate(self._stand_ins)

    def encode_prompt(self, rendered: str) -> list[int]:
        """The ids of a rendered template, in which users' texts are shielded.

        The start token is added where the tokenizer's files say so, and not twice.
        """
        start = self.named_tokens.get("bos_token")
        adds_start = not (start and rendered.startswith(start))
        sealed = self._control.sub(lambda match: self._private[match[0]], rendered).translate(self._letters)
        if not self._rules.is_chunked or self._rules.image_token_id is None:
            return self._sealed.encode(sealed, adds_start=adds_start)
        first, *others = sealed.split(self._private.get(self.image_text, _PICTURE))
        ids = self._sealed.encode(first, adds_start=adds_start)
        for chunk in others:
            ids += [self._rules.image_token_id, *self._sealed.encode(chunk, adds_start=False)]
        return ids

    def encode(self, text: str) -> list[int]:
        """The ids of plain text: no control token, whatever it says."""
        return self._sealed.encode(_OURS.sub(_REPLACEMENT, text), adds_start=False)

    def _check_seal(self) -> None:
        """Prove, on this very checkpoint, that controls come from their private characters and from nothing else."""
        for control, private in self._private.items():
            ids = self._sealed.encode(private, adds_start=False)
            if not ids or self.token(ids[-1]) != control or ids[-1] in self.encode(control):
                raise UnsupportedCheckpoint(
                    f"The tokenizer can't keep plain text apart from the control token {control!r}."
                )


def _read_model(folder: Path, named: NamedTokens, rules: TokenizerRules) -> JsonModel | SentencePieceModel:
    if rules.kind == "json":
        return JsonModel(folder)
    return SentencePieceModel(folder, named, is_legacy=rules.is_legacy)
