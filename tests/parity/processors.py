"""The processors of `transformers` for a checkpoint's folder, for pictures: what cuts videos needs another library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import (
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    LlavaNextProcessor,
    LlavaOnevisionProcessor,
    ProcessorMixin,
)


class _OnevisionPictures(LlavaOnevisionProcessor):
    """Takes None for the part that cuts videos."""

    def check_argument_for_proper_class(self, argument_name: str, argument: object) -> object:
        return None if argument is None else super().check_argument_for_proper_class(argument_name, argument)


def load_processor(folder: Path) -> ProcessorMixin:
    options: dict[str, Any] = json.loads((folder / "processor_config.json").read_text())
    kind = options.pop("processor_class")
    if kind not in ("LlavaOnevisionProcessor", "LlavaNextVideoProcessor"):
        return AutoProcessor.from_pretrained(folder)
    parts = AutoImageProcessor.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    template = (folder / "chat_template.jinja").read_text()
    if kind == "LlavaNextVideoProcessor":  # whose way with pictures is that of LlavaNext
        return LlavaNextProcessor(*parts, chat_template=template, **options)
    return _OnevisionPictures(*parts, None, chat_template=template, **options)
