"""The rows of the table in docs/models.md: each family in each layout, as a recipe for a tiny checkpoint of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.adapted import leave_adapter, leave_projector
from tests.parity.talks import BAK, LLAMA_2, LLAMA_3, MISTRAL, QWEN, V0, V0_MARKED, V1, YI, Prompt

MARKS: Final = ("<im_start>", "<im_end>")
CHATML: Final = ("<|im_start|>", "<|im_end|>")
HEADERS: Final = ("<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>")

SIGLIP: Final[dict[str, Any]] = {"tower": "siglip", "select_layer": -1, "select_strategy": "full"}
NEXT: Final[dict[str, Any]] = {"family": "llava_next"}
NEXT_LLAMA_3: Final[dict[str, Any]] = NEXT | {"rope_theta": 500000.0, "special_tokens": HEADERS}
NEXT_QWEN: Final[dict[str, Any]] = NEXT | {"language": "qwen2", "special_tokens": CHATML}
NEXT_YI: Final[dict[str, Any]] = NEXT | {"rope_theta": 5000000.0, "kv_heads": 1, "special_tokens": CHATML}
INTERLEAVE: Final[dict[str, Any]] = SIGLIP | {"language": "qwen2", "tied": True, "special_tokens": CHATML}
ONEVISION: Final[dict[str, Any]] = INTERLEAVE | {"family": "llava_onevision"}
VIP: Final[dict[str, Any]] = {"family": "vipllava", "vision_layers": 12, "select_layer": (-2, -5, -8, -11, 6)}
PADDED: Final[dict[str, Any]] = {"pixel_mode": "pad"}
PAD: Final[dict[str, Any]] = {"image_aspect_ratio": "pad"}
LINEAR: Final[dict[str, Any]] = {"mm_projector_type": "linear"}


@dataclass(frozen=True)
class Row:
    """A family in one layout. `prompt` is the original's, to the character; llava-hf checkpoints bring their own.

    The original's projector of one layer is in no class of the library: there its own has the second taken away.
    adapt: what leaves of the checkpoint what was trained on a base.
    """

    family: str
    published: str
    recipe: dict[str, Any]
    prompt: Prompt | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    adapt: Callable[[Path], None] | None = None

    @property
    def layout(self) -> str:
        return "llava-hf" if self.prompt is None else "original"

    @property
    def has_linear_projector(self) -> bool:
        return self.settings.get("mm_projector_type") == "linear"


ROWS: Final = (
    Row("1.5", "llava-hf/llava-1.5-7b-hf", {}),
    Row("1.5, Mistral", "llava-hf/bakLlava-v1-hf", {"language": "mistral", "sliding_window": 48}),
    Row("1.6, Vicuna", "llava-hf/llava-v1.6-vicuna-7b-hf", NEXT),
    Row("1.6, Mistral", "llava-hf/llava-v1.6-mistral-7b-hf", NEXT | {"language": "mistral"}),
    Row("1.6, Yi", "llava-hf/llava-v1.6-34b-hf", NEXT_YI),
    Row("NeXT, Llama 3", "llava-hf/llama3-llava-next-8b-hf", NEXT_LLAMA_3),
    Row("NeXT, Qwen", "llava-hf/llava-next-72b-hf", NEXT_QWEN),
    Row("NeXT-Video, pictures", "llava-hf/LLaVA-NeXT-Video-7B-hf", {"family": "llava_next_video"}),
    Row("Interleave", "llava-hf/llava-interleave-qwen-0.5b-hf", INTERLEAVE),
    Row("OneVision", "llava-hf/llava-onevision-qwen2-0.5b-ov-hf", ONEVISION),
    Row("ViP-LLaVA", "llava-hf/vip-llava-7b-hf", VIP),
    Row(
        "v0, its delta applied",
        "liuhaotian/LLaVA-7b-delta-v0",
        {"special_tokens": MARKS},
        V0_MARKED,
        LINEAR | {"mm_use_im_start_end": True},
    ),
    Row("v1", "liuhaotian/llava-v1-0719-336px-lora-merge-vicuna-13b-v1.3", {}, V1, LINEAR),
    Row("v1, Llama 2", "liuhaotian/llava-llama-2-13b-chat-lightning-preview", {"max_positions": 4096}, LLAMA_2, LINEAR),
    Row("1.5", "liuhaotian/llava-v1.5-7b", PADDED, V1, PAD),
    Row("1.5, LoRA on a base", "liuhaotian/llava-v1.5-7b-lora", PADDED, V1, PAD, leave_adapter),
    Row(
        "1.5, projector on a base",
        "liuhaotian/llava-v1.5-mlp2x-336px-pretrain-vicuna-7b-v1.5",
        PADDED,
        V1,
        PAD,
        leave_projector,
    ),
    Row("1.5, Mistral", "microsoft/llava-med-v1.5-mistral-7b", {"language": "mistral"} | PADDED, MISTRAL, PAD),
    Row(
        "1.5, Mistral's base",
        "SkunkworksAI/BakLLaVA-1",
        {"language": "mistral", "sliding_window": 48} | PADDED,
        BAK,
        PAD,
    ),
    Row("1.6, Vicuna", "liuhaotian/llava-v1.6-vicuna-7b", NEXT, V1),
    Row("1.6, Mistral", "liuhaotian/llava-v1.6-mistral-7b", NEXT | {"language": "mistral"}, MISTRAL),
    Row("1.6, Yi", "liuhaotian/llava-v1.6-34b", NEXT_YI, YI),
    Row("NeXT, Llama 3", "lmms-lab/llama3-llava-next-8b", NEXT_LLAMA_3, LLAMA_3),
    Row("NeXT, Qwen", "lmms-lab/llava-next-72b", NEXT_QWEN, QWEN),
    Row("Interleave", "lmms-lab/llava-next-interleave-qwen-0.5b", INTERLEAVE, QWEN),
    Row("OneVision", "lmms-lab/llava-onevision-qwen2-0.5b-ov", ONEVISION, QWEN),
    Row("ViP-LLaVA", "mucai/vip-llava-7b", VIP | PADDED, V0, PAD),
)
