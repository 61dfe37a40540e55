"""Where a run computes: device, arithmetic, threads, and its share where several processes do one run.

Data parallel, as torch's DDP: torchrun starts one process (a rank) for each device. Every rank holds all weights and
reads all data; it computes its share of each step, and `sum_gradients` adds the gradients up before the step is taken.
They are sums, not means: a stage divides by counts over the whole step, which every rank knows because it sees the
whole batch. So the result is that of one process (but for rounding) however uneven the shares are. torch's own DDP
wrapper is not used: it wants `forward` called equally often on every rank, and our passes follow the lengths.

Sharded weights (FSDP2) have their place here too: in Compute, which hands out the device that networks are loaded to,
and in sum_gradients, which reduce-scatter replaces.
"""

import contextlib
import os

import torch
from torch import distributed as ranks

from training.engine.config import ConfigError
from training.engine.transformer import rounded

# torch and oneDNN each keep the last 1,024 kernels that bfloat16 needed, at about 270 and 350 KB; see linear.py.
KERNEL_CACHES = {"LRU_CACHE_CAPACITY": "128", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128"}
BUCKET_NUMBERS = 1 << 25  # gradients summed in one message; their copy takes 128 MB in float32


class Compute:
    """Device, arithmetic and rank of this process, from sections.RunConfig. Raises ConfigError."""

    def __init__(self, run):
        self.rank, self.world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        on_gpu = run.device == "cuda" or (run.device == "auto" and torch.cuda.is_available())
        if on_gpu and not torch.cuda.is_available():
            raise ConfigError("run.device=cuda, but torch finds no CUDA device here; set run.device=cpu.")
        self.device = torch.device("cuda" if on_gpu else "cpu")
        if self.world_size > 1:
            self._join(run)
        self.dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(
            run.dtype, torch.bfloat16 if on_gpu else torch.float32
        )
        if run.threads:
            torch.set_num_threads(run.threads)
        if on_gpu:
            # TensorFloat32 has 10 bits of mantissa: whoever asks for float32 gets float32.
            torch.set_float32_matmul_precision("highest" if self.dtype is torch.float32 else "high")
        else:
            for name, kernels in KERNEL_CACHES.items():  # read when the first such kernel is made
                os.environ.setdefault(name, kernels)
            # Some backward passes add in an order that differs from run to run; a resumed run must repeat bit for bit.
            # (torch.use_deterministic_algorithms does the same, but imports the compiler: seconds of every run.)
            torch.set_deterministic_debug_mode("error")
            torch.utils.deterministic.fill_uninitialized_memory = False

    def _join(self, run):
        """Meets the other ranks: nccl between GPUs, gloo between CPUs."""
        here, beside = (int(os.environ.get(name, 0)) for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
        if self.device.type == "cuda":
            if here >= torch.cuda.device_count():
                raise ConfigError(
                    f"There are {torch.cuda.device_count()} CUDA devices for {beside} processes; start one a device "
                    "(run.devices)."
                )
            self.device = torch.device("cuda", here)
            torch.cuda.set_device(self.device)
        elif not run.threads:
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // max(beside, 1)))
        if not ranks.is_initialized():
            ranks.init_process_group("nccl" if self.device.type == "cuda" else "gloo")

    def autocast(self):
        """A context in which matrix products run in the run's dtype."""
        if self.dtype is torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def freeze(self, module):
        """The module for reading only, its matrices in the run's dtype once and for all."""
        module.requires_grad_(False)
        return module if self.dtype is torch.float32 else rounded(module, self.dtype)

    def share(self, items):
        """This rank's items of a list or of a tensor's rows: every world_size-th."""
        return items[self.rank :: self.world_size]

    def merge(self, rows, count):
        """The whole of (count, ...) rows of which this rank has its share, in the share's order."""
        if self.world_size == 1:
            return rows
        whole = torch.zeros(count, *rows.shape[1:], dtype=rows.dtype, device=self.device)
        whole[self.rank :: self.world_size] = rows.to(self.device)
        ranks.all_reduce(whole)
        return whole.to(rows.device)

    def gather(self, items, count):
        """The same for a list of any things."""
        if self.world_size == 1:
            return items
        whole, parts = [None] * count, [None] * self.world_size
        ranks.all_gather_object(parts, items)
        for rank, part in enumerate(parts):
            whole[rank :: self.world_size] = part
        return whole

    def total(self, values):
        """{name: number} added up over the ranks, which must all name the same."""
        if self.world_size == 1:
            return values
        sums = torch.tensor([float(value) for value in values.values()], dtype=torch.float64, device=self.device)
        ranks.all_reduce(sums)
        return dict(zip(values, sums.tolist(), strict=True))

    def require_rows(self, key, rows):
        """Raises ConfigError if a step has less rows than there are ranks."""
        if rows < self.world_size:
            raise ConfigError(f"{key}={rows} gives some of the {self.world_size} devices nothing to do; raise it.")


def agree(*flags):
    """Each flag as it is on any rank, so that all of them take the same turn."""
    if not ranks.is_initialized():
        return flags
    found = torch.tensor([int(bool(flag)) for flag in flags])
    if ranks.get_backend() == "nccl":
        found = found.cuda()
    ranks.all_reduce(found, ranks.ReduceOp.MAX)
    return tuple(bool(flag) for flag in found.tolist())


def is_same(text):
    """Whether every rank has this text."""
    if not ranks.is_initialized():
        return True
    found = [None] * ranks.get_world_size()
    ranks.all_gather_object(found, text)
    return len(set(found)) == 1


def sum_gradients(parameters):
    """Adds the gradients up over the ranks. A parameter that has none on any rank keeps none."""
    if not ranks.is_initialized():
        return
    bucket, numbers = [], 0
    for parameter in parameters:
        bucket.append(parameter)
        numbers += parameter.numel()
        if numbers >= BUCKET_NUMBERS:
            _sum_bucket(bucket)
            bucket, numbers = [], 0
    if bucket:
        _sum_bucket(bucket)


def _sum_bucket(parameters):
    # A rank without a share of this step has no gradients; the count tells "none anywhere" from "zero".
    has = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([has, *(gradient.flatten() for gradient in gradients)])
    ranks.all_reduce(flat)
    has, *sums = flat.split([len(parameters), *(p.numel() for p in parameters)])
    for parameter, count, gradient in zip(parameters, has.tolist(), sums, strict=True):
        parameter.grad = gradient.view_as(parameter).clone() if count else None


def leave():
    """Parts from the other ranks, at the end of the process."""
    if ranks.is_initialized():
        ranks.destroy_process_group()
