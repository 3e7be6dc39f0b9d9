"""Text ↔ token ids, with the checkpoint's own tokenizer.json; a user's text can't become a control token.

The ids of a prompt are those of the whole rendered template, control tokens included, as its authors' library gives
them. What a user typed may hold `</s>` or `<image>`, too, and must stay text. Cutting the prompt into pieces would
change the ids at the cuts. Instead:

1. `shield` swaps, in users' texts, each character that control tokens are written with for a stand-in. Nothing that is
   then found in the rendered template, in whole or in part, was typed by a user.
2. `encode_prompt` swaps the control tokens that are found for one private character each, and the stand-ins back.
3. The whole is encoded by a sealed copy of the tokenizer, which knows control tokens by those private characters only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

import tokenizers

from lavatube.errors import UnsupportedCheckpoint
from lavatube.prompt.vocabulary import Vocabulary

# Private-use characters that are ours: one for each control token, then the stand-ins. Typed by a user, they are noise.
_CONTROL_BASE: Final = 0x108000
_STAND_IN_BASE: Final = 0x10C000
_OURS: Final = re.compile("[\U00108000-\U0010ffff]")
_REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"


class Tokenizer:
    """The tokenizer of one checkpoint. Any thread may call.

    `control_ids` are control tokens whatever tokenizer.json says about them: the image's, and those that stop.
    """

    def __init__(self, folder: Path, control_ids: Collection[int] = ()) -> None:
        config = _read_json(folder / "tokenizer.json")
        self.named_tokens = _named_tokens(folder)
        original = _load(config)
        self._tokens = {token_id: token for token, token_id in original.get_vocab(with_added_tokens=True).items()}
        added = original.get_added_tokens_decoder()
        control_ids = {token_id for token_id, token in added.items() if token.special} | set(control_ids)
        controls = sorted(token_id for token_id in control_ids if self.token(token_id).strip())
        if not added.keys() >= set(controls):
            raise UnsupportedCheckpoint("tokenizer.json: the image token or a stop token is not in its added_tokens.")
        if len(controls) > _STAND_IN_BASE - _CONTROL_BASE:
            raise UnsupportedCheckpoint(f"tokenizer.json: {len(controls)} special tokens are more than are served.")
        self._private = {self.token(token_id): chr(_CONTROL_BASE + place) for place, token_id in enumerate(controls)}
        self.vocabulary = Vocabulary(self._tokens, frozenset(controls), config.get("decoder"))
        letters = sorted({char for control in self._private for char in control if not char.isspace()})
        self._stand_ins = {ord(char): chr(_STAND_IN_BASE + place) for place, char in enumerate(letters)}
        self._letters = {ord(stand_in): chr(char) for char, stand_in in self._stand_ins.items()}
        self._control = re.compile("|".join(map(re.escape, sorted(self._private, key=len, reverse=True))) or r"(?!)")
        self._sealed = _load(_seal(config, self._private))
        self._check_seal()

    def token(self, token_id: int) -> str:
        """How a token is written in tokenizer.json; empty where there is none."""
        return self._tokens.get(token_id, "")

    def shield(self, text: str) -> str:
        """A user's text as it goes through a template: nothing of it can be taken for a control token."""
        return _OURS.sub(_REPLACEMENT, text).translate(self._stand_ins)

    def encode_prompt(self, rendered: str) -> list[int]:
        """The ids of a rendered template, in which users' texts are shielded.

        The start token is added where tokenizer.json says so, and not twice.
        """
        start = self.named_tokens.get("bos_token")
        has_start = bool(start) and rendered.startswith(str(start))
        sealed = self._control.sub(lambda match: self._private[match[0]], rendered).translate(self._letters)
        return self._sealed.encode(sealed, add_special_tokens=not has_start).ids

    def encode(self, text: str) -> list[int]:
        """The ids of plain text: no control token, whatever it says."""
        return self._sealed.encode(_OURS.sub(_REPLACEMENT, text), add_special_tokens=False).ids

    def _check_seal(self) -> None:
        """Prove, on this very checkpoint, that controls come from their private characters and from nothing else."""
        for control, private in self._private.items():
            token_id = next(iter(self._sealed.encode(private, add_special_tokens=False).ids), None)
            if token_id is None or self.token(token_id) != control or token_id in self.encode(control):
                raise UnsupportedCheckpoint(
                    f"tokenizer.json: plain text can't be kept apart from the control token {control!r}."
                )


def _seal(config: Mapping[str, Any], private: Mapping[str, str]) -> dict[str, Any]:
    """A tokenizer's file with its control tokens renamed; their ids stay."""
    model = dict(config["model"])
    vocabulary = model.get("vocab", {})
    if isinstance(vocabulary, dict):
        model["vocab"] = {private.get(token, token): token_id for token, token_id in vocabulary.items()}
    else:
        model["vocab"] = [[private.get(token, token), score] for token, score in vocabulary]
    if model.get("unk_token") in private:
        model["unk_token"] = private[model["unk_token"]]
    added = [token | {"content": private.get(token["content"], token["content"])} for token in config["added_tokens"]]
    return dict(config) | {"model": model, "added_tokens": added}


def _load(config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    try:
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(config))
    except Exception as error:  # the library raises nothing narrower
        raise UnsupportedCheckpoint(f"tokenizer.json can't be used: {error}.") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _named_tokens(folder: Path) -> dict[str, str]:
    """bos_token, eos_token and the like, which templates ask for by name."""
    named: dict[str, str] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            for key, value in _read_json(folder / name).items():
                content = value.get("content") if isinstance(value, dict) else value
                if key.endswith("_token") and isinstance(content, str):
                    named[key] = content
    return named


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UnsupportedCheckpoint(
            f"There is no {path.name} in the checkpoint's folder.",
            remedy="Use a checkpoint that ships its tokenizer in this form.",
        ) from None
    except (ValueError, RecursionError) as error:
        raise UnsupportedCheckpoint(f"{path.name} is not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise UnsupportedCheckpoint(f"{path.name} is not a JSON object.")
    return value
