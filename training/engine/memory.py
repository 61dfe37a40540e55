"""What to say when memory runs out: the batch that was too large, and the setting to lower."""

import traceback

import torch

from training.engine import packing

SETTINGS = {  # of each stage, the one that bounds a forward and backward pass
    "pretrain": "pretrain.micro_batch_tokens",
    "sft": "sft.batch_size",
    "reward_model": "reward_model.batch_size",
    "ppo": "ppo.micro_batch_size",
    "generate": "generate.sampling.batch_size",
    "evaluate": "evaluate.sampling.batch_size",
}
ROLLOUT_SETTING = "ppo.batch_size"


def ran_out(error):
    """Whether this exception says that the device or the machine had no memory left."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def advice(stage, config, error):
    """One sentence: the shape of the pass that did not fit, and what to lower."""
    frames = list(traceback.walk_tb(error.__traceback__))
    shape = next((found for frame, _ in reversed(frames) if (found := shape_in(frame.f_locals))), None)
    modules = {frame.f_globals.get("__name__", "").rpartition(".")[2] for frame, _ in frames}
    key = ROLLOUT_SETTING if stage == "ppo" and "sampling" in modules else SETTINGS.get(stage, "run.device")
    value = config
    for name in key.split("."):
        value = getattr(value, name)
    now = f" (now {value})" if value else " (set it)"
    what = f"a batch of {shape[0]} rows of {shape[1]} tokens" if shape else f"the stage {stage}"
    return f"Memory ran out on {what}; lower {key}{now}, take shorter texts, or a machine with more memory."


def shape_in(variables):
    """(rows, tokens of the longest) of the token ids in a frame's variables, or None."""
    layout, part = variables.get("layout"), variables.get("part")
    if isinstance(layout, packing.Layout):
        return len(layout.starts), int(layout.positions.max()) + 1
    if isinstance(part, list) and part and hasattr(part[0], "ids"):
        return len(part), max(len(item.ids) for item in part)
    for thing in (variables.get("input_ids"), getattr(part, "input_ids", None)):
        if isinstance(thing, torch.Tensor) and thing.dim() == 2:
            return tuple(thing.shape)
    return None
