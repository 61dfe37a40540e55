"""AdamW, its learning-rate schedule, and one guarded step."""

import math

import torch

from training.engine.progress import GuardStopped


def build_optimizer(parameters, optim):
    """AdamW over (name, parameter) pairs, modules or plain parameters; weight decay on matrices only.

    optim: config.OptimConfig. Gains, biases and other vectors never decay.
    """
    parameters = list(_unique(parameters))
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": optim.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=optim.learning_rate,
        betas=(optim.beta1, optim.beta2),
        eps=optim.eps,
        fused=True,
    )


def _unique(parameters):
    if isinstance(parameters, torch.nn.Module):
        parameters = parameters.parameters()
    seen = set()
    for item in parameters:
        parameter = item[1] if isinstance(item, tuple) else item
        if parameter.requires_grad and id(parameter) not in seen:
            seen.add(id(parameter))
            yield parameter


def learning_rate(optim, step, total_steps):
    """Rate of step 0, 1, ... total_steps - 1: linear warm-up, then constant, linear or cosine down to final_ratio.

    Linear without warm-up gives (1 - step / total_steps) of the peak, as in arXiv:2403.17031.
    """
    if step < optim.warmup_steps:
        return optim.learning_rate * (step + 1) / optim.warmup_steps
    done = min((step - optim.warmup_steps) / max(total_steps - optim.warmup_steps, 1), 1.0)
    if optim.schedule == "constant":
        share = 1.0
    elif optim.schedule == "linear":
        share = 1.0 - done
    else:
        share = 0.5 * (1.0 + math.cos(math.pi * done))
    if optim.schedule != "constant":
        share = optim.final_ratio + (1.0 - optim.final_ratio) * share
    return optim.learning_rate * share


def take_step(optimizer, optim, *, rate, what):
    """Clips the gradients, takes one step at `rate`, clears the gradients; returns their norm before clipping.

    Raises GuardStopped before anything changes if the norm is not finite. what: names step and batch in the message.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(parameters, optim.max_grad_norm or math.inf)
    if not math.isfinite(norm.item()):
        raise GuardStopped(f"The gradient is not finite at {what}; lower the learning rate or look at the data there.")
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm.item()
