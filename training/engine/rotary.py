"""Rotary position embedding (arXiv:2104.09864)."""

import math

import torch
from torch import nn


def rotary_frequencies(size, theta, scaling):
    """(size / 2,) radians a position; on the CPU even where modules are made on the meta device."""
    exponents = torch.arange(0, size, 2, dtype=torch.int64, device="cpu").float() / size
    frequencies = 1.0 / (theta**exponents)
    if scaling is None:
        return frequencies
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    wavelengths = 2 * math.pi / frequencies
    low = scaling.original_max_positions / scaling.low_freq_factor
    high = scaling.original_max_positions / scaling.high_freq_factor
    smooth = (scaling.original_max_positions / wavelengths - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    blended = (1 - smooth) * frequencies / scaling.factor + smooth * frequencies
    stretched = torch.where(wavelengths > low, frequencies / scaling.factor, blended)
    return torch.where(wavelengths < high, frequencies, stretched)


class Rotary(nn.Module):
    """Rotary position embedding (arXiv:2104.09864), halves layout as in Hugging Face's Llama."""

    def __init__(self, architecture):
        super().__init__()
        self.size = int(architecture.head_size * architecture.rope_share)
        frequencies = rotary_frequencies(self.size, architecture.rope_theta, architecture.rope_scaling)
        self.register_buffer("frequencies", frequencies, persistent=False)  # (size / 2,)

    def at(self, positions):
        """(B, T) or (T,) positions -> cosine and signed sine, each (..., T, 1, size)."""
        angles = positions.to(torch.float32).unsqueeze(-1) * self.frequencies
        cos, sin = angles.cos(), angles.sin()
        # The sign of rotate-half sits in the sine, so that turning is one multiply, one roll, one multiply-add.
        return torch.cat([cos, cos], -1).unsqueeze(-2), torch.cat([-sin, sin], -1).unsqueeze(-2)

    def rotate(self, heads, cos, sin):
        """heads (B, T, heads, S) turned by their positions; only the first `size` of S turn."""
        if self.size == heads.shape[-1]:
            turned = torch.addcmul(heads * cos, heads.roll(self.size // 2, -1), sin)
            return turned.to(heads.dtype)
        turning, still = heads.split((self.size, heads.shape[-1] - self.size), dim=-1)
        turned = torch.addcmul(turning * cos, turning.roll(self.size // 2, -1), sin)
        return torch.cat([turned.to(heads.dtype), still], dim=-1)
