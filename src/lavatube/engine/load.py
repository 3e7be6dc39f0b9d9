"""Phase 2: an order to load in, an engine that takes requests out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, get_args

import torch

from lavatube import __version__
from lavatube.checkpoint.read import read_spec
from lavatube.engine.capacity import BLOCK_SIZE, num_cache_blocks
from lavatube.engine.core import EngineCore
from lavatube.engine.feature_files import FeatureFiles
from lavatube.engine.wire import Load
from lavatube.errors import InsufficientMemory, InvalidSetting
from lavatube.fidelity import with_fidelity
from lavatube.model.examples import Examples
from lavatube.model.fused import TRITON
from lavatube.model.gate import Gate
from lavatube.model.llava import Llava
from lavatube.model.load import load_model
from lavatube.model.native import native
from lavatube.model.replay import cuda_recorder
from lavatube.model.soundness import sound_kernels
from lavatube.model.trial import Question
from lavatube.spec import DTYPE_BYTES, ModelSpec, Quantize

SMALL_MODEL_PARAMETERS: Final = 50_000_000


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What an order means on this machine."""

    spec: ModelSpec
    folder: Path
    device: torch.device
    dtype: str
    quantize: Quantize

    def load(
        self,
        on_progress: Callable[[int, int], None],
        on_shaped: Callable[[Llava, dict[str, int]], None] = lambda model, sizes: None,
    ) -> Llava:
        """See `load_model`. Raises: OperatorError."""
        with _memory_border(self.device):
            dtype = getattr(torch, self.dtype)
            return load_model(self.spec, self.folder, self.device, dtype, on_progress, self.quantize, on_shaped)


def load_core(order: Load, on_progress: Callable[[int, int], None] = lambda done, total: None) -> EngineCore:
    """Put the checkpoint into device memory. `on_progress` gets bytes in place, and of how many.

    Raises: OperatorError.
    """
    plan = plan_load(order)
    return make_core(order, plan, plan.load(on_progress))


def plan_load(order: Load) -> LoadPlan:
    """Raises: OperatorError."""
    folder = Path(order.folder)
    spec = with_fidelity(read_spec(folder), order.fidelity)
    device = choose_device(order.device)
    dtype = choose_dtype(order.dtype, spec.dtype, device)
    quantize = choose_quantize(order.quantize)
    if not can_quantize(quantize, device):
        raise InvalidSetting(
            "quantize: fp8 is for CUDA devices alone; a CPU has nothing that multiplies it.",
            remedy="Use --quantize int8, which takes as little memory and is nearer to the weights.",
        )
    return LoadPlan(spec, folder, device, dtype, quantize)


def make_core(
    order: Load, plan: LoadPlan, model: Llava, untaken_bytes: int = 0, gate: Gate | None = None
) -> EngineCore:
    """An engine for a model, of whose memory the device will still give `untaken_bytes`, and whose weights come by
    `gate`, if they are not here yet.

    Raises: InsufficientMemory.
    """
    with _memory_border(plan.device):
        num_blocks = num_cache_blocks(
            plan.spec,
            plan.dtype,
            plan.device,
            max_sequences=order.max_sequences,
            kv_cache_bytes=order.kv_cache_bytes,
            taken_bytes=untaken_bytes,
        )
        if plan.device.type == "cuda":
            _prove_kernels(model, plan, Path(order.kernel_notes) if order.kernel_notes else None)
        return EngineCore(
            model,
            plan.spec,
            num_blocks=num_blocks,
            max_sequences=order.max_sequences,
            max_step_tokens=order.max_step_tokens,
            num_token_ids=order.num_token_ids,
            token_texts=order.token_texts,
            image_cache_bytes=order.image_cache_bytes,
            image_files=_image_files(order, plan),
            is_reusing=order.is_reusing,
            max_guess=order.max_guess,
            gate=gate,
            record=cuda_recorder() if plan.device.type == "cuda" else None,
        )


def _image_files(order: Load, plan: LoadPlan) -> FeatureFiles | None:
    disk = order.image_disk
    if disk is None:
        return None
    facts = (__version__, disk.weights, order.fidelity, plan.dtype, plan.quantize, plan.device.type)
    return FeatureFiles(Path(disk.folder), disk.max_bytes, " ".join(facts))


def _prove_kernels(model: Llava, plan: LoadPlan, notes: Path | None) -> None:
    """On a thread beside the engine, which computes by torch until they are there.

    First in another process, which what reads or waits where it must not may take with it.
    """

    def sound(keys: list[str]) -> list[str]:
        question = Question(
            plan.spec.language, BLOCK_SIZE, plan.dtype, str(plan.device), plan.quantize, module=TRITON, keys=keys
        )
        return sound_kernels(question, notes)

    def prove() -> None:
        torch.cuda.set_device(plan.device)
        examples = Examples(plan.spec.language, BLOCK_SIZE, model.dtype, plan.device, plan.quantize)
        model.fused.prove(examples, sound)

    threading.Thread(target=prove, name="lavatube-kernels", daemon=True).start()


@contextmanager
def _memory_border(device: torch.device) -> Iterator[None]:
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise InsufficientMemory(
            f"The model does not fit into the memory of {device}.",
            remedy="Use a smaller model, a narrower dtype or a smaller kv_cache_mib.",
        ) from error


def choose_threads(threads: int, spec: ModelSpec) -> int:
    """CPU threads for the model; 0: torch's own choice, one a core.

    A small model gets one: its operations are over before a second thread has woken up, and where cores are shared each
    of them then waits for a thread that is not running (measured: 2 ms a token became 50).
    """
    if threads:
        return threads
    return 1 if spec.num_parameters < SMALL_MODEL_PARAMETERS else torch.get_num_threads()


def choose_device(name: str) -> torch.device:
    """Raises: InvalidSetting for a device that this machine has not."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if kind == "cpu" and not index:
        return torch.device("cpu")
    if kind != "cuda" or not (not index or index.isdecimal()):
        raise InvalidSetting(f"device: {name!r} is none of auto, cpu, cuda and cuda:N.")
    if int(index or 0) >= torch.cuda.device_count():
        raise InvalidSetting(
            f"device: there is no {name}; {torch.cuda.device_count()} CUDA devices are visible.",
            remedy="Use --device auto or cpu, or see to the driver and CUDA_VISIBLE_DEVICES.",
        )
    return torch.device("cuda", int(index or 0))


def choose_quantize(name: str) -> Quantize:
    """Raises: InvalidSetting for what there is not."""
    match name:
        case "none" | "int8" | "int4" | "fp8" as quantize:
            return quantize
    raise InvalidSetting(f"quantize: {name!r} is none of {', '.join(get_args(Quantize))}.")


def can_quantize(quantize: Quantize, device: torch.device) -> bool:
    """Whether weights that are quantised so are computed with on this device."""
    return quantize != "fp8" or device.type == "cuda"


def explain_dtype(name: str, stored: str, dtype: str) -> str:
    """Why `choose_dtype` chose so."""
    if name != "auto":
        return "the dtype setting"
    if dtype == stored:
        return "as stored"
    return f"stored as {stored}; this CPU has {'' if dtype == 'bfloat16' else 'no '}quick products in bfloat16"


def choose_dtype(name: str, stored: str, device: torch.device) -> str:
    """auto: as stored on a GPU; on a CPU bfloat16, if it computes as quickly in it as in float32."""
    if name != "auto":
        if name not in DTYPE_BYTES:
            raise InvalidSetting(f"dtype: {name!r} is none of auto, {', '.join(DTYPE_BYTES)}.")
        return name
    if device.type == "cuda" or stored == "float32":
        return stored
    kernels = native()
    is_in_hardware = any(can for name, can in torch.cpu.get_capabilities().items() if name.endswith("bf16"))
    return "bfloat16" if is_in_hardware or (kernels is not None and kernels.has_vectors) else "float32"
