"""A tokenizer.json as its authors' library reads it, and the copy of it that takes no control token from text."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import tokenizers

from lavatube.errors import UnsupportedCheckpoint
from lavatube.prompt.named_tokens import read_json


class JsonModel:
    """`tokens` by id; `special_ids` are those that the file itself calls special; `decoder` is the file's."""

    def __init__(self, folder: Path) -> None:
        self._config = read_json(folder / "tokenizer.json")
        original = _load(self._config)
        self.tokens = {token_id: token for token, token_id in original.get_vocab(with_added_tokens=True).items()}
        added = original.get_added_tokens_decoder()
        self.added_ids = frozenset(added)
        self.special_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        self.decoder: Mapping[str, Any] | None = self._config.get("decoder")

    def seal(self, private: Mapping[str, str], controls: Collection[int], image: tuple[str, int] | None) -> SealedJson:
        """`private` names each control token anew; `image`, its character and id, is one that the file has not."""
        if not self.added_ids >= set(controls):
            raise UnsupportedCheckpoint("tokenizer.json: the image token or a stop token is not in its added_tokens.")
        return SealedJson(_load(_rename(self._config, private)), image)


class SealedJson:
    """Encodes text in which control tokens are private characters."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, image: tuple[str, int] | None) -> None:
        self._tokenizer = tokenizer
        self._image_ids: dict[int, int] = {}
        if image is not None:
            tokenizer.add_special_tokens([tokenizers.AddedToken(image[0], normalized=False)])
            added_id = tokenizer.token_to_id(image[0])
            assert added_id is not None, "a token that was just added has an id"
            self._image_ids = {added_id: image[1]}

    def encode(self, sealed: str, *, adds_start: bool) -> list[int]:
        ids = self._tokenizer.encode(sealed, add_special_tokens=adds_start).ids
        return [self._image_ids.get(token_id, token_id) for token_id in ids] if self._image_ids else ids


def _rename(config: Mapping[str, Any], private: Mapping[str, str]) -> dict[str, Any]:
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
