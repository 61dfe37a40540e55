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
        missing = round_rows(rows) - rows
        if not missing:
            return super().forward(x)
        filled = F.pad(x.reshape(rows, -1).to(torch.bfloat16), (0, 0, 0, missing))
        return super().forward(filled)[:rows].unflatten(0, x.shape[:-1])


def round_rows(rows):
    """The next round number of rows: 3 -> 4, 33 -> 64, 65 -> 128, 130 -> 192."""
    if rows > ROWS:
        return -(-rows // ROWS) * ROWS
    return 1 << (rows - 1).bit_length()


def _in_bfloat16(weight):
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu") is torch.bfloat16
    return weight.dtype is torch.bfloat16
