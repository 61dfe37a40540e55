"""Where a run computes: its device, arithmetic and threads, and its place among the processes of one job."""

import contextlib
import os

import torch
import torch.distributed as dist

from training.engine.config import ConfigError


class Compute:
    """Device and arithmetic of this process, from config.RunConfig.

    Under torchrun (WORLD_SIZE in the environment) every process joins one group.
    """

    def __init__(self, run):
        self.rank = int(os.environ.get("RANK", "0"))
        self.world_size = int(os.environ.get("WORLD_SIZE", "1"))
        on_gpu = run.device == "cuda" or (run.device == "auto" and torch.cuda.is_available())
        if on_gpu and not torch.cuda.is_available():
            raise ConfigError("run.device=cuda, but torch finds no CUDA device here; set run.device=cpu.")
        self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if on_gpu else torch.device("cpu")
        self.dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(
            run.dtype, torch.bfloat16 if on_gpu else torch.float32
        )
        if run.threads:
            torch.set_num_threads(run.threads)
        if on_gpu:
            torch.cuda.set_device(self.device)
            torch.set_float32_matmul_precision("high")
        else:
            # Some backward passes add in an order that differs from run to run; a resumed run must repeat bit for bit.
            # (torch.use_deterministic_algorithms does the same, but imports the compiler: seconds of every run.)
            torch.set_deterministic_debug_mode("error")
            torch.utils.deterministic.fill_uninitialized_memory = False
        if self.world_size > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if on_gpu else "gloo")

    @property
    def is_main(self):
        """Whether this process writes files and events."""
        return self.rank == 0

    def autocast(self):
        """A context in which matrix products run in the run's dtype."""
        if self.dtype is torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)
