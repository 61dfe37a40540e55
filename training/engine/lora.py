"""LoRA: a frozen network with a small trained addition to its matrices (arXiv:2106.09685), in PEFT's file format.

    W x + alpha / rank * B A x        A (rank, in) starts random, B (out, rank) at zero: at first nothing changes

A matrix of ours that files keep as several (query, key, value; gate, up) has an A and a B for each, as PEFT would.
Embeddings, norms and the output matrix stay frozen; a reward model's head is trained whole.

An adapter directory holds adapter_config.json and adapter_model.safetensors; that of a reward model also
score_shift.json, which PEFT does not know.
"""

import copy
import dataclasses
import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from training.engine import checkpoint, families
from training.engine.heads import RewardModel
from training.engine.rollout import derive_seed
from training.engine.sections import LoraConfig
from training.engine.weights import CheckpointError, read_json, read_tensors, write_tensors

ADAPTER = "adapter"  # beside output/, where that holds the merged checkpoint
CONFIG, WEIGHTS, SHIFT = "adapter_config.json", "adapter_model.safetensors", "score_shift.json"
TARGETS = {
    "attention": ("attention.qkv", "attention.output"),
    "all": ("attention.qkv", "attention.output", "mlp.up", "mlp.down"),
}
PREFIX = "base_model.model."
SCORE = f"{PREFIX}score.weight"
HEADS = {"score", "classifier"}  # PEFT names both for every ...ForSequenceClassification


class LoraLinear(nn.Module):
    """A frozen linear layer and its addition."""

    def __init__(self, layer, sizes, *, rank, alpha, generator=None):
        """sizes: how many outputs each part has that files keep apart; they add up to the layer's."""
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.sizes, self.rank, self.scale = sizes, rank, alpha / rank
        width, device = layer.weight.shape[1], layer.weight.device
        # PEFT's start, made on the CPU so that every device draws the same.
        down = torch.empty(len(sizes) * rank, width).uniform_(-1, 1, generator=generator) / math.sqrt(width)
        self.down = nn.Parameter(down.to(device))
        self.up = nn.ParameterList(torch.zeros(size, rank, device=device) for size in sizes)

    def forward(self, x):
        parts = F.linear(x, self.down).split(self.rank, dim=-1)
        added = torch.cat([F.linear(part, up) for part, up in zip(parts, self.up, strict=True)], dim=-1)
        return self.layer(x) + self.scale * added

    @torch.no_grad()
    def merge(self):
        """A plain linear layer that computes the same."""
        parts = self.down.split(self.rank)
        added = torch.cat([up @ down for down, up in zip(parts, self.up, strict=True)])
        merged = nn.Linear(*reversed(self.layer.weight.shape), bias=False, device="meta")
        merged.weight = nn.Parameter(self.layer.weight + self.scale * added)
        merged.bias = self.layer.bias
        return merged


@dataclasses.dataclass(frozen=True, slots=True)
class Adapter:
    """What a network with an adapter knows of it."""

    settings: LoraConfig
    base: str  # directory that the frozen weights came from


class Trained:
    """The part of a network that is trained, with the state that a resume checkpoint keeps."""

    def __init__(self, module):
        self.module = module

    def _parts(self):
        parts = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        return parts | dict(self.module.named_buffers())

    def state_dict(self):
        return {name: tensor.detach() for name, tensor in self._parts().items()}

    @torch.no_grad()
    def load_state_dict(self, state):
        parts = self._parts()
        if set(parts) != set(state):
            raise ValueError("the adapter has other parts")
        for name, tensor in parts.items():
            tensor.copy_(state[name])


def attach(module, settings, *, base, seed):
    """Freezes a Transformer, or a RewardModel's trunk, and gives it an adapter; settings.rank 0 changes nothing.

    settings: sections.LoraConfig. base: the directory that the weights came from.
    """
    if not settings.rank:
        return module
    trunk = module.trunk if isinstance(module, RewardModel) else module
    trunk.requires_grad_(False)
    generator = torch.Generator().manual_seed(derive_seed(seed, "lora"))
    for name in _targets(trunk, settings.targets):
        parent, _, leaf = name.rpartition(".")
        layer = trunk.get_submodule(name)
        sizes = _parts_in_files(trunk.config, name)[1] or [layer.weight.shape[0]]
        added = LoraLinear(layer, sizes, rank=settings.rank, alpha=settings.alpha, generator=generator)
        setattr(trunk.get_submodule(parent), leaf, added)
    module.adapter = Adapter(settings, str(Path(base).resolve()))
    return module


def has_adapter(module):
    return hasattr(module, "adapter")


def tracked(module):
    """What of a network a resume checkpoint keeps: the frozen weights are read again instead."""
    return Trained(module) if has_adapter(module) else module


def shared_copy(module):
    """A module of its own over the same weights: with an adapter on one of them, the other is the network without it.

    The head of a RewardModel is not shared.
    """
    trunk = module.trunk if isinstance(module, RewardModel) else module
    return copy.deepcopy(module, {id(tensor): tensor for tensor in trunk.parameters()})


def merged(module):
    """A plain network that computes what the one with the adapter does."""
    plain = shared_copy(module)
    for name, layer in [item for item in plain.named_modules() if isinstance(item[1], LoraLinear)]:
        parent, _, leaf = name.rpartition(".")
        setattr(plain.get_submodule(parent), leaf, layer.merge())
    del plain.adapter
    return plain


def save_policy(policy, tokenizer, path):
    """Writes the policy as the stage's output, one with an adapter as lora.merge says; returns the digest."""
    return _save(checkpoint.save_policy, [policy], policy, tokenizer, Path(path))


def save_reward_model(reward_model, tokenizer, path):
    """The same for a RewardModel or a list of them."""
    members = [reward_model] if isinstance(reward_model, RewardModel) else reward_model
    return _save(checkpoint.save_reward_model, members, reward_model, tokenizer, Path(path))


def _save(save, modules, whole, tokenizer, path):
    if not has_adapter(modules[0]):
        return save(whole, tokenizer, path)
    settings = modules[0].adapter.settings
    adapters = path.with_name(ADAPTER) if settings.merge else path
    with checkpoint.new_directory(adapters, kind="adapter") as folder:
        if len(modules) == 1:
            write_adapter(modules[0], folder)
        else:
            for number, module in enumerate(modules):
                inner = folder / f"member-{number:02d}"
                inner.mkdir()
                write_adapter(module, inner)
    if not settings.merge:
        return checkpoint.digest(adapters)
    plain = [merged(module) for module in modules]
    return save(plain[0] if len(plain) == 1 else plain, tokenizer, path)


def write_adapter(module, folder):
    """Writes a network's adapter into a directory as PEFT does."""
    is_reward_model = isinstance(module, RewardModel)
    trunk = module.trunk if is_reward_model else module
    settings, tensors = module.adapter.settings, {}
    for name, layer in _lora_layers(trunk):
        names, _ = _parts_in_files(trunk.config, name)
        # The rows of B are outputs and stand as a bias does: NeoX mixes them by head, GPT-2 does not turn them.
        ups = [families.to_files(trunk.config, f"{name}.bias", up) for up in layer.up]
        for theirs, down, up in zip(names, layer.down.split(layer.rank), ups, strict=True):
            tensors |= {f"{PREFIX}{theirs}.lora_A.weight": down, f"{PREFIX}{theirs}.lora_B.weight": up}
    if is_reward_model:
        tensors[SCORE] = module.head.weight
        (folder / SHIFT).write_text(json.dumps({"score_shift": float(module.score_shift)}) + "\n")
    family = families.FAMILIES[trunk.config.family]
    modules = {
        part.removesuffix(".weight") for name in TARGETS[settings.targets] for part in family.inner[f"{name}.weight"]
    }
    values = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if is_reward_model else "CAUSAL_LM",
        "base_model_name_or_path": module.adapter.base,
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted(modules),
        "modules_to_save": ["score"] if is_reward_model else None,
        "fan_in_fan_out": family.layout == "conv1d",
        "bias": "none",
        "inference_mode": True,
    }
    (folder / CONFIG).write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
    write_tensors(folder / WEIGHTS, {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()})


@torch.no_grad()
def load_adapter(module, path):
    """Attaches the adapter in a directory (ours or PEFT's own) to the network it was trained on; returns the network.

    Raises CheckpointError for kinds of adapters other than plain LoRA on the matrices that `lora.targets` names, and
    for whatever else an adapter may hold that was trained (biases, whole modules): it must not be lost in silence.
    """
    path = Path(path)
    checkpoint.check_manifest(path)
    values = read_json(path / CONFIG)
    other = any(values.get(name) for name in ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern"))
    sizes = [values.get(name) for name in ("r", "lora_alpha")]
    if values.get("peft_type") != "LORA" or other or not all(type(n) in (int, float) and n > 0 for n in sizes):
        raise CheckpointError(f"{path} holds no plain LoRA adapter; other kinds are not read.")
    is_reward_model = isinstance(module, RewardModel)
    whole = set(values.get("modules_to_save") or ()) - (HEADS if is_reward_model else set())
    if values.get("bias", "none") != "none" or whole:
        what = f"whole modules ({', '.join(sorted(whole))})" if whole else "biases"
        raise CheckpointError(f"{path} trains {what} beside its adapter, which are not read; merge it with PEFT first.")
    tensors = read_tensors(path / WEIGHTS)
    trunk = module.trunk if is_reward_model else module
    for targets in TARGETS:
        settings = LoraConfig(rank=int(sizes[0]), alpha=float(sizes[1]), targets=targets)
        names = {name: _parts_in_files(trunk.config, name)[0] for name in _targets(trunk, targets)}
        wanted = {f"{PREFIX}{part}.lora_{side}.weight" for parts in names.values() for part in parts for side in "AB"}
        if wanted == {name for name in tensors if ".lora_" in name}:
            break
    else:
        raise CheckpointError(f"{path} changes other matrices than this engine's adapters do ({', '.join(TARGETS)}).")
    rest = set(tensors) ^ (wanted | ({SCORE} if is_reward_model else set()))
    if rest:
        why = "lacks" if min(rest) not in tensors else "holds, which this network has no place for,"
        raise CheckpointError(f"{path} {why} the tensor {min(rest)}; name an adapter of this kind of network.")
    attach(module, settings, base=values.get("base_model_name_or_path") or "", seed=0)
    for name, layer in _lora_layers(trunk):
        parts = [
            (tensors[f"{PREFIX}{part}.lora_A.weight"], tensors[f"{PREFIX}{part}.lora_B.weight"]) for part in names[name]
        ]
        try:
            layer.down.copy_(torch.cat([down for down, _ in parts]))
            for up, (_, theirs) in zip(layer.up, parts, strict=True):
                up.copy_(families.from_files(trunk.config, f"{name}.bias", theirs.float()))
        except RuntimeError:
            raise CheckpointError(f"{path} does not fit this network: {name} has another shape.") from None
    if is_reward_model:
        module.head.weight.copy_(tensors[SCORE])
        if (path / SHIFT).exists():
            module.score_shift.fill_(float(read_json(path / SHIFT)["score_shift"]))
    return module


def _targets(trunk, targets):
    """Names of the linear layers that get an addition."""
    return [
        name
        for name, layer in trunk.named_modules()
        if isinstance(layer, nn.Linear) and name.endswith(TARGETS[targets])
    ]


def _lora_layers(trunk):
    return [(name, layer) for name, layer in trunk.named_modules() if isinstance(layer, LoraLinear)]


def _parts_in_files(architecture, name):
    """(names in files of a linear layer's parts, their numbers of outputs or None for one part)."""
    names, sizes = families.tensor_map(architecture, [f"{name}.weight"])[f"{name}.weight"]
    return [part.removesuffix(".weight") for part in names], sizes
