"""Where a run computes: its device, arithmetic and threads.

One process on one device. A job of several processes is refused rather than run as several that know nothing of each
other.
"""

import contextlib
import os

import torch

from training.engine.config import ConfigError


class Compute:
    """Device and arithmetic of this process, from config.RunConfig. Raises ConfigError."""

    def __init__(self, run):
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError("A run takes one process on one device so far; start it without torchrun.")
        on_gpu = run.device == "cuda" or (run.device == "auto" and torch.cuda.is_available())
        if on_gpu and not torch.cuda.is_available():
            raise ConfigError("run.device=cuda, but torch finds no CUDA device here; set run.device=cpu.")
        self.device = torch.device("cuda" if on_gpu else "cpu")
        self.dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(
            run.dtype, torch.bfloat16 if on_gpu else torch.float32
        )
        if run.threads:
            torch.set_num_threads(run.threads)
        if on_gpu:
            torch.set_float32_matmul_precision("high")
        else:
            # Some backward passes add in an order that differs from run to run; a resumed run must repeat bit for bit.
            # (torch.use_deterministic_algorithms does the same, but imports the compiler: seconds of every run.)
            torch.set_deterministic_debug_mode("error")
            torch.utils.deterministic.fill_uninitialized_memory = False

    def autocast(self):
        """A context in which matrix products run in the run's dtype."""
        if self.dtype is torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)
