"""AdamW, its learning-rate schedule, and one guarded step."""

import math

import torch

from training.engine.distributed import sum_gradients
from training.engine.progress import GuardStopped


def build_optimizer(parameters, optim):
    """AdamW over (name, parameter) pairs, modules or plain parameters; weight decay on matrices only.

    optim: sections.OptimConfig. Gains, biases and other vectors never decay.
    """
    parameters = list(_unique(parameters))
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": optim.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return AdamW([group for group in groups if group["params"]], optim)


class AdamW:
    """AdamW (arXiv:1711.05101) over torch's fused kernel.

    torch.optim.AdamW computes the same, but its first use imports torch's compiler, which takes seconds of every run.
    """

    def __init__(self, groups, optim):
        """groups: dictionaries with params and weight_decay. optim: sections.OptimConfig."""
        shared = {"lr": optim.learning_rate, "betas": (optim.beta1, optim.beta2), "eps": optim.eps}
        self.param_groups = [{**shared, **group} for group in groups]
        self.state = {}  # parameter -> step, exp_avg, exp_avg_sq; from its first gradient on

    def parameters(self):
        """Every parameter, in the order of the groups."""
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def zero_grad(self):
        for parameter in self.parameters():
            parameter.grad = None

    @torch.no_grad()
    def step(self):
        """Moves every parameter that has a gradient."""
        for group in self.param_groups:
            moving = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not moving:
                continue
            states = [self._state_of(parameter) for parameter in moving]
            torch._fused_adamw_(
                moving,
                [parameter.grad for parameter in moving],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                [state["step"].add_(1) for state in states],
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
            )

    def _state_of(self, parameter):
        if parameter not in self.state:
            self.state[parameter] = {
                "step": torch.zeros((), device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        return self.state[parameter]

    def state_dict(self):
        """The moments of each parameter by its number."""
        return {number: dict(self.state[p]) for number, p in enumerate(self.parameters()) if p in self.state}

    def load_state_dict(self, state):
        """Takes up moments again. Raises ValueError where they fit no parameter."""
        parameters = self.parameters()
        self.state = {}
        for number, values in state.items():
            if number >= len(parameters) or values["exp_avg"].shape != parameters[number].shape:
                raise ValueError(f"the optimizer's moments of parameter {number} fit none of its parameters")
            parameter = parameters[number]
            self.state[parameter] = {name: tensor.to(parameter.device) for name, tensor in values.items()}


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
    """Sums the gradients over the ranks, clips them, takes one step at `rate`, clears them; returns their norm before
    clipping.

    Raises GuardStopped before anything changes if the norm is not finite. what: names step and batch in the message.
    """
    sum_gradients(optimizer.parameters())
    norm = torch.nn.utils.clip_grad_norm_(optimizer.parameters(), optim.max_grad_norm or math.inf)
    if not math.isfinite(norm.item()):
        raise GuardStopped(f"The gradient is not finite at {what}; lower the learning rate or look at the data there.")
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad()
    return norm.item()
