"""A checkpoint's tensors in, a model in device memory out: read once, in the order in which the model runs.

Every tensor of the file either has its place in the model or is known to be superfluous; anything else is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from lavatube.errors import UnsupportedCheckpoint
from lavatube.model.llava import Llava
from lavatube.model.places import Place, allocate, places
from lavatube.model.ring import copy_to
from lavatube.spec import ModelSpec, Quantize
from lavatube.weights.composite import TensorSource, open_checkpoint

EMBEDDINGS: Final = "language.embed_tokens.weight"
HEAD: Final = "head.weight"
NEWLINE: Final = "newline"
LAST_NORM: Final = "language.norm.weight"

# Spellings that files of both layouts have had, and where each part lives in our model; the first match wins.
PREFIXES: Final = (
    ("model.vision_tower.vision_tower.vision_model.", "vision."),
    ("model.mm_projector.clip_layernorm.", "projector.norm."),
    ("model.mm_projector.final_linear.0.", "projector.linear_1."),
    ("model.mm_projector.final_linear.2.", "projector.linear_2."),
    # Of N layers, each but the last is followed by an activation, which counts in the file's numbers.
    *((f"model.mm_projector.{2 * layer}.", f"projector.linear_{layer + 1}.") for layer in range(9)),
    ("model.mm_projector.", "projector.linear_1."),
    ("model.vision_tower.vision_model.", "vision."),
    ("model.vision_tower.", "vision."),
    ("model.multi_modal_projector.projector_layernorm.", "projector.norm."),
    ("model.multi_modal_projector.", "projector."),
    ("model.image_newline", NEWLINE),
    ("model.language_model.", "language."),
    ("vision_tower.vision_model.", "vision."),
    ("vision_tower.", "vision."),
    ("multi_modal_projector.projector_layernorm.", "projector.norm."),
    ("multi_modal_projector.", "projector."),
    ("image_newline", NEWLINE),
    ("language_model.model.", "language."),
    ("language_model.lm_head.", "head."),
    ("lm_head.", "head."),
    ("model.", "language."),
)

# In files, but not part of the computation: constants that old versions stored, and what a tower was pretrained with.
SUPERFLUOUS: Final = re.compile(
    r".*\.(rotary_emb\.inv_freq|position_ids)"
    r"|vision\.(post_layernorm\..*|head\..*|text_model\..*|text_projection\..*|visual_projection\..*|logit_.*)"
)
# The largest weight of a trained model's last norm is above one; of a difference it is a few thousandths.
_LEAST_NORM: Final = 0.05
TOWER_BLOCK: Final = re.compile(r"vision\.layers\.(\d+)\.")


def load_model(
    spec: ModelSpec,
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    on_progress: Callable[[int, int], None],
    quantize: Quantize = "none",
    on_shaped: Callable[[Llava, dict[str, int]], None] = lambda model, sizes: None,
) -> Llava:
    """Phase 2: the model of `spec` with the weights in `folder`, on `device`, as `dtype`.

    Weights that are to be quantised are so one by one, as they come: never is more than one there as it was stored.
    `on_shaped` gets the model when its memory is there and nothing in it yet, and the size of each weight, in the order
    in which they will be put in place.

    Units: on_progress takes bytes of weights that are in place on the device, and of how many; sizes are in bytes.
    Raises: UnsupportedCheckpoint, listing the tensors that are missing, too many or of another shape.
    """
    tensors = open_checkpoint(folder)
    sources = _sources(tensors.names)
    with torch.device("meta"):  # shapes only: what does not fit is refused before it costs memory
        model = Llava(spec)
    _check(spec, dict(places(model)), sources, tensors)
    allocate(model, device, dtype, quantize)
    goals = dict(places(model, copy_to(device)))
    on_shaped(model, {name: place.size_bytes for name, place in goals.items()})
    total_bytes, done_bytes = sum(place.size_bytes for place in goals.values()), 0
    with torch.inference_mode():
        for name, place in goals.items():
            stored = tensors.tensor(sources[name])
            place.put(stored)
            told = f"{tensors.file(sources[name])}: {sources[name]}"
            _check_finite(stored if place.values is None else place.values, stored, told)
            if name == LAST_NORM:
                _check_whole(stored, told)
            done_bytes += place.size_bytes
            on_progress(done_bytes, total_bytes)
    if spec.language.has_tied_embeddings and HEAD in sources:
        _check_tied(tensors.tensor(sources[EMBEDDINGS]), tensors.tensor(sources[HEAD]))
    return model


def _sources(names: Iterable[str]) -> dict[str, str]:
    """Name in our model → name in the file."""
    sources: dict[str, str] = {}
    for source in names:
        name = _own_name(source)
        if name in sources:
            raise UnsupportedCheckpoint(
                f"The weights have both {sources[name]} and {source}, which mean the same.",
                remedy="Fetch them again; a folder holds one checkpoint.",
            )
        sources[name] = source
    return sources


def _own_name(source: str) -> str:
    for prefix, part in PREFIXES:
        if source.startswith(prefix):
            return (part + source.removeprefix(prefix)).replace("vision.encoder.layers.", "vision.layers.", 1)
    return source


def _check(spec: ModelSpec, goals: dict[str, Place], sources: dict[str, str], tensors: TensorSource) -> None:
    missing, unfit = [], []
    for name, place in goals.items():
        source = sources.get(name)
        if source is None:
            missing.append(name)
        elif tensors.shape(source) != place.shape:
            unfit.append(f"{source} ({tensors.file(source)}) is {list(tensors.shape(source))}, not {list(place.shape)}")
        elif not tensors.dtype(source).is_floating_point:
            unfit.append(f"{source} ({tensors.file(source)}) holds {tensors.dtype(source)}")
    unknown = [source for name, source in sources.items() if name not in goals and not _is_superfluous(name, spec)]
    faults = [("missing", missing), ("not of this model", unknown), ("other than config.json says", unfit)]
    listed = [f"{len(names)} {fault}: {_some(names)}" for fault, names in faults if names]
    if listed:
        files = _some(sorted({tensors.file(source) for source in sources.values()}), limit=3)
        raise UnsupportedCheckpoint(
            f"The weights in {files} do not fit config.json. Tensors {'; '.join(listed)}.",
            remedy="Fetch both from the same place again, or put right what config.json says.",
        )


def _is_superfluous(name: str, spec: ModelSpec) -> bool:
    block = TOWER_BLOCK.match(name)
    if block and spec.vision.num_layers_run <= int(block[1]) < spec.vision.num_layers:
        return True
    return SUPERFLUOUS.fullmatch(name) is not None or (name == HEAD and spec.language.has_tied_embeddings)


def _check_tied(embeddings: Tensor, head: Tensor) -> None:
    if embeddings.dtype != head.dtype or not torch.equal(embeddings, head):
        raise UnsupportedCheckpoint(
            "config.json says that embeddings and lm_head are one (tie_word_embeddings), but the weights have two "
            "different ones.",
            remedy="Set tie_word_embeddings to false in config.json.",
        )


def _check_finite(place: Tensor, stored: Tensor, name: str) -> None:
    """NaN and infinity show in the extremes: one pass, no copy, a fraction of what reading the file costs."""
    comparable = place.float() if place.dtype.itemsize == 1 else place  # torch has no extremes of float8
    if torch.stack(torch.aminmax(comparable)).isfinite().all():
        return
    if torch.stack(torch.aminmax(stored.float())).isfinite().all():
        raise UnsupportedCheckpoint(
            f"{name} has values beyond what {str(place.dtype).removeprefix('torch.')} holds.",
            remedy="Load the model as bfloat16 or float32.",
        )
    raise UnsupportedCheckpoint(
        f"{name} has values that are no numbers (NaN or infinite): the checkpoint is damaged.",
        remedy="Fetch it again from its source, or use another.",
    )


def _check_whole(last_norm: Tensor, name: str) -> None:
    """A norm that lets nothing through is that of a difference between two models, as v0 and v1 were published."""
    if last_norm.float().abs().max() < _LEAST_NORM:
        raise UnsupportedCheckpoint(
            f"{name} is nearly zero, so these are delta weights: what training changed of a base.",
            remedy="Apply them to their base first, as their authors say.",
        )


def _some(names: list[str], limit: int = 8) -> str:
    """Enough of a long list to see the pattern."""
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")
