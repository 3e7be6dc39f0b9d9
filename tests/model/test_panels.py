"""Products with panels: every instruction set's kernels against the same arithmetic in torch, row by row."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from lavatube.model.native import LEVELS, Native
from lavatube.model.operation import Operation
from lavatube.model.panels import E4M3_MAX, MANY_ROWS, Kind, Multiply, Panels, Products, to_e4m3
from lavatube.spec import QUANTIZED_GROUPS
from tests.model.kernels import kernels_up_to

KINDS: tuple[Kind, ...] = ("bfloat16", "int8", "int4")
ROW_COUNTS = (1, 2, 5, 12, 13, 23, 24, 30, 261)


def panels_of(matrix: Tensor, kind: Kind) -> Panels:
    panels = Panels(*matrix.shape, kind)
    panels.put(0, matrix)
    return panels


def random_rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def twin(panels: Panels, hidden: Tensor) -> Tensor:
    """What the kernels are to compute, in float64. Shapes: hidden (rows, inputs), out (rows, outputs)."""
    hidden = hidden.float()
    if panels.kind == "bfloat16":
        return hidden.bfloat16().double() @ panels.unpack().double().T
    group = QUANTIZED_GROUPS[panels.kind]
    groups = functional.pad(hidden, (0, -hidden.shape[1] % group)).unflatten(1, (-1, group))
    peaks = groups.abs().amax(dim=-1, keepdim=True)
    scaled = groups * (torch.tensor(127.0) / peaks.clamp(min=1e-30))  # 127 / peaks would round twice
    levels = (scaled + 0.5 * scaled.sign()).trunc()
    rounded = (levels.double() * (peaks / 127)).flatten(1)[:, : hidden.shape[1]]
    return rounded @ panels.unpack().double().T


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 30),
    inputs=st.integers(1, 600),
    outputs=st.integers(1, 70),
    level=st.integers(0, len(LEVELS) - 1),
    is_bfloat16=st.booleans(),
    has_bias=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_every_shape_is_the_product_that_torch_computes(
    kind: Kind, rows: int, inputs: int, outputs: int, level: int, is_bfloat16: bool, has_bias: bool, seed: int
) -> None:
    kernels = kernels_up_to(level)
    dtype = torch.bfloat16 if is_bfloat16 else torch.float32
    panels = panels_of(random_rows(outputs, inputs, seed=seed), kind)
    hidden = random_rows(rows, inputs, seed=seed + 1).to(dtype)
    bias = random_rows(outputs, seed=seed + 2).to(dtype) if has_bias else None
    expected = twin(panels, hidden) + (0 if bias is None else bias.double())
    wide = panels.by_kernels(kernels, hidden, bias, torch.float32)
    torch.testing.assert_close(wide.double(), expected, rtol=1e-5, atol=1e-4)
    narrow = panels.by_kernels(kernels, hidden, bias, torch.bfloat16)
    torch.testing.assert_close(narrow, wide.bfloat16(), rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_the_same_alone_and_among_others(kind: Kind, kernels: Native) -> None:
    panels, hidden = panels_of(random_rows(70, 520), kind), random_rows(max(ROW_COUNTS), 520, seed=1)
    alone = torch.cat([panels.by_kernels(kernels, row[None], None, torch.float32) for row in hidden])
    for count in ROW_COUNTS:
        assert torch.equal(panels.by_kernels(kernels, hidden[:count], None, torch.float32), alone[:count])


@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize("rows", [6, 40])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sums_of_integers_are_exact(kind: Kind, rows: int, sign: int, kernels: Native) -> None:
    """Weights in turn at both ends of their levels, and rows that make all products of one sign, or of both in turn."""
    turns = torch.tensor([-1.0, 1.0]).repeat(256)
    panels, hidden = panels_of(turns.repeat(20, 1), kind), (sign * turns).repeat(rows, 1)
    hidden[1::2] = sign
    out = panels.by_kernels(kernels, hidden, None, torch.float32)
    torch.testing.assert_close(out.double(), twin(panels, hidden), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_threads_makes_no_difference(threads: int, kernels: Native) -> None:
    panels, hidden = panels_of(random_rows(200, 96), "int4"), random_rows(14, 96, seed=1)
    before, expected = torch.get_num_threads(), panels.by_kernels(kernels, hidden, None, torch.float32)
    try:
        torch.set_num_threads(threads)
        assert torch.equal(panels.by_kernels(kernels, hidden, None, torch.float32), expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("rows", [3, 31])
def test_what_is_no_number_is_not_lost(kind: Kind, value: float, rows: int, kernels: Native) -> None:
    panels, hidden = panels_of(random_rows(40, 300), kind), random_rows(rows, 300, seed=1)
    sound = panels.by_kernels(kernels, hidden, None, torch.float32)
    hidden[1, 299] = value
    out = panels.by_kernels(kernels, hidden, None, torch.float32)
    assert not out[1].isfinite().any()
    assert torch.equal(out[::2], sound[::2])


@pytest.mark.parametrize("kind", [*KINDS, "fp8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_torch_alone_computes_nearly_the_same(kind: Kind, dtype: torch.dtype) -> None:
    panels, hidden = panels_of(random_rows(40, 300), kind), random_rows(2, 7, 300, seed=1).to(dtype)
    bias = random_rows(40, seed=2).to(dtype)
    ours, plain = panels(hidden, bias, torch.float32), panels.by_torch(hidden, bias, torch.float32)
    assert ours.shape == (2, 7, 40)
    assert (ours - plain).norm() < 0.01 * plain.norm()


@pytest.mark.parametrize(("kind", "most"), [("bfloat16", 0.004), ("int8", 0.01), ("int4", 0.1), ("fp8", 0.03)])
def test_the_matrix_is_what_was_put_in_piece_by_piece(kind: Kind, most: float) -> None:
    matrix = random_rows(75, 330)
    panels = Panels(75, 330, kind)
    panels.put(19, matrix[19:])
    panels.put(0, matrix[:19])
    assert torch.equal(panels.unpack(), panels_of(matrix, kind).unpack())
    assert (panels.unpack() - matrix).norm() < most * matrix.norm()
    ids = torch.tensor([74, 0, 16, 16])
    assert torch.equal(panels.rows(ids).float(), panels.unpack()[ids])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("inputs", [1, 63, 330, 2048])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_and_torch_quantise_alike(kind: Kind, inputs: int, dtype: torch.dtype, kernels: Native) -> None:
    matrix = random_rows(75, inputs).to(dtype)
    ours, plain = Panels(75, inputs, kind), Panels(75, inputs, kind)
    for first, last in ((19, 75), (0, 19)):
        ours.put_by_kernels(kernels, first, matrix[first:last])
        plain.put_by_torch(first, matrix[first:last])
    if kind == "int4":  # of two scales that are as good as each other, either may win
        same = (ours.weight == plain.weight).float().mean()
        assert same > 0.99
        torch.testing.assert_close(*((each.unpack() - matrix).norm() for each in (ours, plain)), rtol=1e-4, atol=0)
    else:
        assert torch.equal(ours.weight.view(torch.uint8), plain.weight.view(torch.uint8))
        assert ours.scales is None or torch.equal(ours.scales, plain.scales)


def test_zeros_and_the_tiniest_values_are_quantised_without_a_division_by_zero() -> None:
    matrix = torch.zeros(3, 64)
    matrix[1], matrix[2] = 1e-40, 3e38
    unpacked = panels_of(matrix, "int4").unpack()
    assert unpacked.isfinite().all()
    assert unpacked[:2].abs().max() < 1e-38


@pytest.mark.parametrize("kind", [*KINDS, "fp8"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_weights_of_any_type_of_floating_point_are_taken(kind: Kind, dtype: torch.dtype) -> None:
    matrix = random_rows(75, 330).to(dtype)
    assert torch.equal(panels_of(matrix, kind).unpack(), panels_of(matrix.float(), kind).unpack())


@pytest.mark.parametrize("spread", [1e-3, 1.0, 1e3])
def test_fp8_is_off_by_a_sixteenth_of_a_weight_or_a_thousandth_of_its_scale(spread: float) -> None:
    """Three bits of a fraction; and below the least exponent, half of 2**-9."""
    matrix = spread * random_rows(40, 300) ** 3  # some stand out
    unpacked = panels_of(matrix, "fp8").unpack()
    scales = matrix.abs().amax(dim=1, keepdim=True) / E4M3_MAX
    bound = torch.maximum(matrix.abs() / 16, scales * 2**-10) * 1.01  # the scale itself is rounded
    assert ((unpacked - matrix).abs() <= bound).all()


def test_rows_that_are_rounded_are_off_as_fp8_weights_are() -> None:
    panels, hidden = panels_of(random_rows(40, 300), "fp8"), random_rows(2, 7, 300, seed=1)
    hidden[0, 0], hidden[0, 1, 0] = 0.0, torch.nan
    levels, scales = to_e4m3(hidden, torch.float32)
    expected = (levels.double() * scales[..., None].double()) @ panels.unpack().double().T + 1
    ours = panels.by_torch_rounded(hidden, torch.ones(40, dtype=torch.float16), torch.float32)
    torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-4, equal_nan=True)
    assert (ours[0, 0] == 1).all()
    assert ours[0, 1].isnan().all()
    exact = panels.by_torch(hidden[1], torch.ones(40), torch.float32)
    assert 0.001 < (ours[1] - exact).norm() / (exact - 1).norm() < 0.04


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_only_many_rows_and_only_beside_fp8_are_rounded(kind: Kind) -> None:
    called: list[str] = []

    def product(name: str) -> Multiply:
        operation: Multiply = Operation(name, Panels.by_torch)

        def kernel(panels: Panels, hidden: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
            called.append(name)
            return panels.by_torch(hidden, bias, dtype)

        operation.prove(kernel, [])
        return operation

    panels = Panels(20, 16, kind, Products(product("exact"), product("rounded")))
    for count in (1, MANY_ROWS - 1, MANY_ROWS):
        panels(random_rows(count, 16), None, torch.float32)
    assert called == ["exact", "exact", "rounded" if kind == "fp8" else "exact"]
