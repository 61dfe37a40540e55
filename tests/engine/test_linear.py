"""Matrices in bfloat16 on a CPU: few kernels, the same numbers."""

import copy
import os

import pytest
import torch
import torch.nn.functional as F

from training.engine.distributed import KERNEL_CACHES, Compute
from training.engine.linear import Linear, for_reading, round_rows
from training.engine.sections import RunConfig


def autocast():
    return torch.autocast("cpu", torch.bfloat16)


def test_it_rounds_rows_up_to_few_numbers():
    assert [round_rows(rows) for rows in (1, 2, 3, 33, 64, 65, 128, 130)] == [1, 2, 4, 64, 64, 128, 128, 192]
    assert len({round_rows(rows) for rows in range(1, 1025)}) == 7 + 15


@pytest.mark.parametrize("shape", [(3,), (5, 7), (70,)])
def test_it_computes_what_torch_computes_where_rows_of_zeros_are_added(shape):
    torch.manual_seed(0)
    layer, x = Linear(16, 24), torch.randn(*shape, 16, requires_grad=True)
    with autocast():
        found, expected = layer(x), F.linear(x, layer.weight, layer.bias)
    assert found.shape == expected.shape and found.dtype is torch.bfloat16
    inputs = (x, layer.weight, layer.bias)
    direction = torch.randn_like(expected)
    for ours, theirs in zip(
        (found, *torch.autograd.grad(found, inputs, direction)),
        (expected, *torch.autograd.grad(expected, inputs, direction)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-2)


def test_it_hands_the_kernel_round_numbers_of_rows_in_bfloat16_alone(monkeypatch):
    seen = []
    linear = F.linear
    monkeypatch.setattr(F, "linear", lambda x, *others: seen.append(tuple(x.shape)) or linear(x, *others))
    layer = Linear(16, 24)
    with torch.no_grad():
        layer(torch.randn(70, 16))
        with autocast():
            layer(torch.randn(70, 16))
            layer(torch.randn(5, 7, 16))
        layer.bfloat16()(torch.randn(3, 16).bfloat16())
    assert seen == [(70, 16), (128, 16), (64, 16), (4, 16)]


def test_it_bounds_the_kernels_that_are_kept_unless_one_says_how_many(monkeypatch):
    first, second = KERNEL_CACHES
    monkeypatch.setenv(first, "7")
    monkeypatch.delenv(second, raising=False)
    Compute(RunConfig(device="cpu"))
    assert (os.environ[first], os.environ[second]) == ("7", KERNEL_CACHES[second])


@pytest.mark.parametrize("shape", [(3,), (5, 7), (64,), (300,)])
@pytest.mark.parametrize("bias", [True, False])
def test_it_lays_a_weight_out_once_and_computes_the_same(shape, bias):
    torch.manual_seed(0)
    layer, x = Linear(48, 80, bias=bias), torch.randn(*shape, 48)
    with torch.no_grad(), autocast():
        expected = layer(x)
        found = for_reading(copy.deepcopy(layer), torch.bfloat16)(x)
    assert found.shape == expected.shape and found.dtype is torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)


def test_it_lays_out_nothing_elsewhere():
    layer = for_reading(Linear(8, 8), torch.float16)
    assert isinstance(layer, Linear) and layer.weight.dtype is torch.float16
    assert not layer.weight.requires_grad
