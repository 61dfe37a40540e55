"""The matrices of a network, kind to oneDNN where they run in bfloat16 on a CPU."""

import torch
import torch.nn.functional as F
from torch import nn

ROWS = 64  # row counts above this are multiples of it, those below powers of two


class Linear(nn.Linear):
    """torch's, but in bfloat16 on a CPU rows of zeros fill its input up to a round number of rows.

    There oneDNN compiles a kernel for every number of rows that it meets, in milliseconds and some 400 KB, and keeps
    the last thousand; passes without padding have a number of their own almost every time.
    """

    def forward(self, x):
        """(..., in) -> (..., out)."""
        if x.is_cuda or not _in_bfloat16(self.weight):
            return super().forward(x)
        rows = x.shape[:-1].numel()
        if round_rows(rows) == rows:
            return super().forward(x)
        return super().forward(_filled(x, rows))[:rows].unflatten(0, x.shape[:-1])


class LaidOutLinear(nn.Module):
    """A Linear in bfloat16 on a CPU, for reading only: its weight lies as oneDNN's tiles want it.

    A plain weight is laid out anew in every product, which takes longer than the product where the rows are few.
    """

    def __init__(self, layer):
        super().__init__()
        weight = layer.weight.detach().to(torch.bfloat16)
        self.register_buffer("weight", torch.ops.mkldnn._reorder_linear_weight(weight, ROWS), persistent=False)
        bias = None if layer.bias is None else layer.bias.detach().to(torch.bfloat16)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, x):
        """(..., in) -> (..., out), bfloat16."""
        rows = x.shape[:-1].numel()
        found = torch.ops.mkldnn._linear_pointwise(_filled(x, rows), self.weight, self.bias, "none", [], "")
        return found[:rows].unflatten(0, x.shape[:-1])


def for_reading(layer, dtype):
    """A linear layer with its weight and bias in `dtype`, without gradients."""
    on_cpu = layer.weight.device.type == "cpu"
    if on_cpu and dtype is torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return LaidOutLinear(layer)
    for name, parameter in list(layer.named_parameters(recurse=False)):
        setattr(layer, name, nn.Parameter(parameter.detach().to(dtype), requires_grad=False))
    return layer


def fill_places(places, weight):
    """(n,) long, such as token ids, and zeros up to a round number where products with `weight` would fill rows: so a
    network fills them once, not each of its matrices. What becomes of the rows added is nobody's concern.
    """
    if weight.is_cuda or not _in_bfloat16(weight):
        return places
    return F.pad(places, (0, round_rows(len(places)) - len(places)))


def round_rows(rows):
    """The next round number of rows: 3 -> 4, 33 -> 64, 65 -> 128, 130 -> 192."""
    if rows > ROWS:
        return -(-rows // ROWS) * ROWS
    return 1 << (rows - 1).bit_length()


def _filled(x, rows):
    """(rows, in) bfloat16 of x, and rows of zeros up to a round number."""
    flat, missing = x.reshape(rows, -1).to(torch.bfloat16), round_rows(rows) - rows
    return F.pad(flat, (0, 0, 0, missing)) if missing else flat


def _in_bfloat16(weight):
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu") is torch.bfloat16
    return weight.dtype is torch.bfloat16
