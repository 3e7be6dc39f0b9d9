"""Settings become the arguments of the layers below: the one place where both are known."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from lavatube.checkpoint.read import read_spec
from lavatube.engine import wire
from lavatube.fidelity import Choice, with_fidelity
from lavatube.prompt.decoder import ImageDecoder
from lavatube.prompt.fetch import UrlGate
from lavatube.prompt.images import ImageLimits, Reading
from lavatube.prompt.prepare import Preparer
from lavatube.prompt.structure import can_build
from lavatube.settings import MIB, Settings
from lavatube.spec import ModelSpec
from lavatube.weights.content import list_folder
from lavatube.weights.local import fingerprint
from lavatube.weights.options import Provisioned

# Pictures are shown as a person sees them, unless one of the worlds is asked for by name.
_READINGS: Final[dict[Choice, Reading]] = {"auto": "person", "original": "original", "hf": "hf"}


def read_served_spec(folder: Path, settings: Settings) -> ModelSpec:
    """What the checkpoint is, under the rules that the settings ask for. Raises: UnsupportedCheckpoint."""
    return with_fidelity(read_spec(folder), _fidelity(settings))


def load_command(provisioned: Provisioned, preparer: Preparer, settings: Settings) -> wire.Load:
    """Phase 2; ids that the tokenizer does not have are never sampled."""
    vocabulary = preparer.tokenizer.vocabulary
    return wire.Load(
        folder=str(provisioned.folder),
        device=settings.device,
        dtype=settings.dtype,
        quantize=settings.quantize,
        max_sequences=settings.max_sequences,
        max_step_tokens=settings.max_step_tokens,
        kv_cache_bytes=settings.kv_cache_mib * MIB,
        num_token_ids=vocabulary.size,
        token_texts=[vocabulary.decode(token_id) for token_id in range(vocabulary.size)] if can_build() else [],
        fidelity=_fidelity(settings),
        image_cache_bytes=settings.image_cache_mib * MIB,
        image_disk=_image_disk(provisioned, settings),
        kernel_notes=str(_beside_cache(settings, "kernels")),
        is_reusing=settings.prefix_cache,
        trace=settings.trace,
        max_guess=settings.speculate,
    )


def _image_disk(provisioned: Provisioned, settings: Settings) -> wire.FeatureDisk | None:
    if settings.image_disk_mib == 0:
        return None
    return wire.FeatureDisk(
        folder=str(_beside_cache(settings, "pictures")),
        max_bytes=settings.image_disk_mib * MIB,
        weights=_weights_of(provisioned),
    )


def _beside_cache(settings: Settings, what: str) -> Path:
    folder = settings.cache_folder
    return folder.with_name(f"{folder.name}.{what}")


def _weights_of(provisioned: Provisioned) -> str:
    """What changes when the weights do: of a folder that nobody has hashed, when its files look different."""
    if provisioned.set_digest and provisioned.trust != "local":
        return provisioned.set_digest
    return fingerprint(provisioned.folder, list_folder(provisioned.folder))


def make_preparer(spec: ModelSpec, folder: Path, settings: Settings) -> Preparer:
    """Phase 3, what comes before the engine."""
    limits = ImageLimits(
        max_images=settings.max_images,
        max_bytes=settings.max_image_mib * MIB,
        max_pixels=settings.max_image_pixels,
    )
    gate = UrlGate(settings.image_urls, timeout_s=settings.image_fetch_timeout_s, max_bytes=limits.max_bytes)
    decoder = ImageDecoder(settings.decode_workers)
    try:
        return Preparer(spec, folder, limits, gate, decoder, _READINGS[_fidelity(settings)])
    except BaseException:
        decoder.close()
        raise


def _fidelity(settings: Settings) -> Choice:
    match settings.fidelity:
        case "original" | "hf" as choice:
            return choice
        case _:
            return "auto"
