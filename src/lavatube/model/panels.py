"""The weights of a linear map as kernels read them, in bfloat16 or quantised to int8, int4 or fp8.

Sixteen outputs stand side by side; `native/product.h` has the layout. Integers are symmetric, with one scale for each
output and group of inputs. fp8 is e4m3 with one scale for each output, lies as int8 does, and is for GPUs alone.
Filling and product are the kernels' where there are any; those in torch are slow.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from lavatube.model.native import Map, Native, native
from lavatube.model.operation import Operation
from lavatube.model.ring import Copy
from lavatube.spec import QUANTIZED_GROUPS

Kind = Literal["bfloat16", "int8", "int4", "fp8"]
Multiply = Operation[["Panels", Tensor, Tensor | None, torch.dtype], Tensor]

LANES: Final = 16
MANY_ROWS: Final = 128
"""So many are bound by arithmetic on a GPU: rounding them to e4m3, too, doubles the rate there."""
E4M3_MAX: Final = torch.finfo(torch.float8_e4m3fn).max
_KINDS: Final[tuple[Kind, ...]] = ("bfloat16", "int8", "int4")
"""Of which there are kernels for CPUs."""
_STEP_INPUTS: Final = {"bfloat16": 2, "int8": 4, "int4": 4}
_WORD_INPUTS: Final = {"bfloat16": 2, "int8": 4, "int4": 8, "fp8": 4}
_LARGEST: Final = {"int8": 127, "int4": 7}
_WEIGHTS_AT_ONCE: Final = 1 << 18  # that are quantised on a CPU
_WEIGHTS_AT_ONCE_ON_GPU: Final = 1 << 24  # that are quantised, or unpacked by torch: 64 MiB as float32


class Products(NamedTuple):
    """By what a GPU multiplies: with rows as they are, and, where there are MANY_ROWS, rounded as fp8 weights are."""

    exact: Multiply
    rounded: Multiply


class Panels(nn.Module):
    """A matrix (outputs, inputs). With zeros, its inputs are padded to words of four bytes, its outputs to panels."""

    scales: nn.Parameter | None

    def __init__(self, outputs: int, inputs: int, kind: Kind, products: Products | None = None) -> None:
        """`products` are those on other devices than a CPU, once they are proven; till then it is `by_torch`."""
        super().__init__()
        self.outputs, self.inputs, self.kind = outputs, inputs, kind
        self._products = products
        panels, words = -(-outputs // LANES), -(-inputs // _WORD_INPUTS[kind])
        self._padded = words * _WORD_INPUTS[kind]
        self._group = QUANTIZED_GROUPS.get(kind, self._padded)
        if kind == "bfloat16":
            self.weight = _parameter(torch.zeros(panels, words, LANES, 2, dtype=torch.bfloat16))
            self.scales = None
        else:
            groups = -(-self._padded // self._group)
            self.weight = _parameter(torch.zeros(panels, words, LANES, 4, dtype=torch.uint8))
            self.scales = _parameter(torch.zeros(panels, groups, LANES, dtype=torch.bfloat16))

    @property
    def size_bytes(self) -> int:
        return sum(parameter.nbytes for parameter in self.parameters())

    @property
    def group_words(self) -> int:
        """How many words of an output have one scale."""
        return self._group // _WORD_INPUTS[self.kind]

    @property
    def has_map(self) -> bool:
        """Whether the kernels of a CPU, if there are any, read this kind."""
        return self.kind in _KINDS

    def put(self, first: int, rows: Tensor, copy: Copy | None = None) -> None:
        """The weights of the outputs from `first` on, which `copy`, if given, brings to the device, piece by piece.

        Shapes: rows (n, inputs), of any type of floating point.
        """
        kernels = self._kernels()
        at_once = _WEIGHTS_AT_ONCE if self.weight.device.type == "cpu" else _WEIGHTS_AT_ONCE_ON_GPU
        for piece in torch.split(rows, max(1, at_once // self.inputs)):  # bounds the memory that this takes
            if copy is not None:
                arrived = torch.empty(piece.shape, dtype=piece.dtype, device=self.weight.device)
                copy(arrived, piece)
                piece = arrived
            if kernels is None:
                self.put_by_torch(first, piece)
            else:
                self.put_by_kernels(kernels, first, piece)
            first += len(piece)

    def put_by_kernels(self, kernels: Native, first: int, rows: Tensor) -> None:
        rows = rows if rows.dtype in (torch.float32, torch.bfloat16) else rows.float()
        kind, words = _KINDS.index(self.kind), self.weight.shape[1]
        kernels.fill(rows, self.weight, self.scales, kind=kind, first=first, words=words, group=self._group)

    def put_by_torch(self, first: int, rows: Tensor) -> None:
        outputs = torch.arange(first, first + len(rows), device=self.weight.device)
        panels, lanes = outputs // LANES, outputs % LANES
        if self.scales is None:
            padded = functional.pad(rows.to(self.weight.device, torch.bfloat16), (0, self._padded - self.inputs))
            self.weight[panels, :, lanes] = torch.unflatten(padded, 1, (-1, 2))
            return
        wide = rows.to(self.weight.device, torch.float32)
        if self.kind == "fp8":
            padded = functional.pad(wide, (0, self._padded - self.inputs))
            rounded, scales = to_e4m3(padded[:, None], torch.bfloat16)  # one group
            levels = rounded.view(torch.uint8).flatten(1)
        else:
            scales, levels = quantize(wide, self._group, _LARGEST[self.kind])
        self.scales[panels, :, lanes] = scales
        words = torch.unflatten(levels[:, : self._padded], 1, (-1, _WORD_INPUTS[self.kind]))
        if self.kind == "int4":
            words = words[:, :, :4] | words[:, :, 4:] << 4
        self.weight[panels, :, lanes] = words

    def map(self, bias: Tensor | None) -> Map:
        """What the kernels are told; it points into the weights, and must not outlive them."""
        step_inputs = _STEP_INPUTS[self.kind]
        return Map(
            weights=self.weight.data_ptr(),
            scales=None if self.scales is None else self.scales.data_ptr(),
            bias=None if bias is None else bias.data_ptr(),
            kind=_KINDS.index(self.kind),
            inputs=self.inputs,
            outputs=self.outputs,
            steps=self._padded // step_inputs,
            group_steps=self._group // step_inputs,
        )

    def unpack(self) -> Tensor:
        """The matrix that the product is with. Shapes: out (outputs, inputs) float32."""
        outputs = torch.arange(self.outputs, device=self.weight.device)
        return self.rows(outputs).float()

    def rows(self, outputs: Tensor) -> Tensor:
        """Some of the matrix. Shapes: outputs (n,), out (n, inputs); bfloat16 as stored, else float32."""
        panels, lanes = outputs // LANES, outputs % LANES
        words = self.weight[panels, :, lanes]  # (n, words, 2 or 4)
        if self.scales is None:
            return words.flatten(1)[:, : self.inputs]
        if self.kind == "int4":
            words = torch.stack([words & 15, words >> 4], dim=2)  # (n, words, 2, 4)
        scales = self.scales[panels, :, lanes].float()  # (n, groups)
        if self.kind == "fp8":
            return words.flatten(1).view(torch.float8_e4m3fn).float()[:, : self.inputs] * scales
        levels = words.flatten(1).float() - (_LARGEST[self.kind] + 1)
        return (levels * scales.repeat_interleave(self._group, dim=1)[:, : self._padded])[:, : self.inputs]

    def forward(self, hidden: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        """hidden · matrixᵀ + bias.

        Shapes: hidden (…, inputs), out (…, outputs) of `dtype`.
        """
        product = self._product(hidden)
        if product is not None:
            return product(self, hidden, bias, dtype)
        kernels = self._kernels()
        if kernels is None:
            return self.by_torch(hidden, bias, dtype)
        if hidden.dtype == torch.float16:
            wide = self.by_kernels(kernels, hidden.float(), None if bias is None else bias.float(), torch.float32)
            return wide.to(dtype)
        return self.by_kernels(kernels, hidden, bias, dtype)

    def by_torch(self, hidden: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        """What there is everywhere: right, but the matrix is unpacked each time, piece by piece."""
        outputs = torch.arange(self.outputs, device=self.weight.device)
        parts = [
            functional.linear(hidden, self.rows(piece).to(hidden.dtype), None if bias is None else bias[piece])
            for piece in torch.split(outputs, max(1, _WEIGHTS_AT_ONCE_ON_GPU // self.inputs))
        ]
        return torch.cat(parts, dim=-1).to(dtype)

    def by_torch_rounded(self, hidden: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        """The same of rows that are rounded to e4m3, each with a scale of its own."""
        rounded, scales = to_e4m3(hidden, torch.float32)
        return self.by_torch(rounded.float() * scales[..., None], None if bias is None else bias.float(), dtype)

    def by_kernels(self, kernels: Native, hidden: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        """On a CPU. Of quantised weights, the rows are quantised too, to int8 by groups: 0.5 % off, by the norm."""
        rows = hidden.reshape(-1, self.inputs).contiguous()
        out = torch.empty(len(rows), self.outputs, dtype=dtype)
        kernels.product(rows, self.map(bias), out)
        return out.view(*hidden.shape[:-1], self.outputs)

    def _product(self, hidden: Tensor) -> Multiply | None:
        """A proven one."""
        if self._products is None:
            return None
        exact, rounded = self._products
        if self.kind == "fp8" and rounded.is_proven and hidden.numel() >= MANY_ROWS * self.inputs:
            return rounded
        return exact if exact.is_proven else None

    def _kernels(self) -> Native | None:
        return native() if self.has_map and self.weight.device.type == "cpu" else None


def to_e4m3(rows: Tensor, scale_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """What is nearest to the rows, divided each by its scale, by which its farthest from zero is the largest there is.

    Shapes: rows (…, inputs); out (…, inputs) float8_e4m3fn, (…).
    """
    wide = rows.float()
    scales = (wide.abs().amax(dim=-1) / E4M3_MAX).to(scale_dtype)
    divisors = scales.float().clamp(min=torch.finfo(torch.float32).tiny)
    # A scale that was rounded down would take the farthest past the largest, which is NaN.
    return (wide / divisors[..., None]).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn), scales


def quantize(rows: Tensor, group: int, largest: int) -> tuple[Tensor, Tensor]:
    """Scales of each row's groups, and what is nearest to the rows in levels of them, stored with `largest` + 1 added.

    The weight farthest from zero gets the lowest level, which is one farther out than the highest. Of four bits, some
    smaller scales are tried: they cut what stands out, and may suit the others better.

    Shapes: rows (n, inputs) float32; out (n, groups) bfloat16 and (n, groups · group) uint8.
    """
    groups = torch.unflatten(functional.pad(rows, (0, -rows.shape[1] % group)), 1, (-1, group))
    low, high = groups.amin(dim=-1), groups.amax(dim=-1)
    widest = torch.where(-low >= high, low, high) / (-largest - 1)
    least_scale = torch.finfo(torch.float32).tiny

    def attempt(scales: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        divisors = scales.float()[..., None]
        divisors = torch.where(divisors.abs() > least_scale, divisors, least_scale)
        levels = (groups * divisors.reciprocal()).round_().clamp_(-largest - 1, largest)
        return scales, levels, (levels * divisors - groups).square_().sum(dim=-1)

    scales, levels, errors = attempt(widest.to(torch.bfloat16))
    for trial in (1, 2, 3) if largest == _LARGEST["int4"] else ():
        others = attempt((widest * (1 - trial / 12)).to(torch.bfloat16))
        is_better = others[2] < errors
        scales, errors = torch.where(is_better, others[0], scales), torch.where(is_better, others[2], errors)
        levels = torch.where(is_better[..., None], others[1], levels)
    return scales, (levels + (largest + 1)).to(torch.uint8).flatten(1)


def _parameter(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values, requires_grad=False)
