"""Health guards: they read the figures of each iteration and stop a run that is sick.

| guard | reading | sick when |
|---|---|---|
| non_finite | any figure | NaN or infinite, at once |
| kl_blow_up | kl_per_completion | above guard_max_kl |
| negative_kl | kl_per_completion | below guard_min_kl: the log-probs are not those of what was sampled |
| entropy_collapse | entropy | below guard_min_entropy |
| flat_reward | score_deviation | below guard_min_score_deviation: nothing to learn from |
| logprob_gap | logprob_gap | above guard_max_logprob_gap: sampler and update do not compute the same policy |
| eos_rate | eos_rate | below guard_min_eos_rate: hardly a completion ends, so hardly one is scored |
| short_completions | length_mean | below guard_min_length: the policy answers with nothing |
| clip_fraction | clip_fraction | above guard_max_clip_fraction: an update goes further than its rollout can tell |
| blind_values | explained_variance | below guard_min_explained_variance: the values do more harm than good |

All but the first must last guard_patience iterations in a row. A reward model has one of its own:

| no_signal | validation_accuracy | below reward_model.guard_min_accuracy at the end: PPO would follow noise |
"""

import math

from training.engine.progress import GuardStopped

SIGNAL_COMPARISONS = 100  # their share deviates by about 0.05


class GuardStop(GuardStopped):
    """A run is sick. `guard` is its name in the table; the message is one sentence for people."""

    def __init__(self, guard, message):
        super().__init__(message)
        self.guard = guard


class Guards:
    """Counts, for each guard, how many iterations in a row were sick."""

    def __init__(self, config):
        """config: PpoConfig."""
        self.patience = config.guard_patience
        # A cause stands before what follows from it: where hardly a completion ends, all score alike.
        # (guard, reading, bound, whether the sick side is above, what it means)
        self.rules = (
            ("kl_blow_up", "kl_per_completion", config.guard_max_kl, True,
             "the policy has left the reference too far; raise ppo.kl_coef or lower the learning rate"),
            ("negative_kl", "kl_per_completion", config.guard_min_kl, False,
             "the log-probs do not belong to what was sampled; check temperature and sampling settings"),
            ("entropy_collapse", "entropy", config.guard_min_entropy, False,
             "the policy repeats itself; raise ppo.kl_coef or ppo.entropy_coef, or lower the learning rate"),
            ("logprob_gap", "logprob_gap", config.guard_max_logprob_gap, True,
             "sampling and update disagree about the policy; set run.dtype=float32 to see whether arithmetic is why"),
            ("eos_rate", "eos_rate", config.guard_min_eos_rate, False,
             "hardly a completion ends; raise ppo.max_new_tokens, or train the policy on demonstrations first"),
            ("short_completions", "length_mean", config.guard_min_length, False,
             "the policy answers with nothing; look at the samples and at what the reward model likes"),
            ("clip_fraction", "clip_fraction", config.guard_max_clip_fraction, True,
             "each update leaves its rollout far behind; lower the learning rate or ppo.ppo_epochs"),
            ("blind_values", "explained_variance", config.guard_min_explained_variance, False,
             "the values are far off; lower ppo.value_learning_rate or raise ppo.value_warmup_iterations"),
            ("flat_reward", "score_deviation", config.guard_min_score_deviation, False,
             "all completions score alike, so nothing can be learned; look at the samples and the reward model"),
        )  # fmt: skip
        self.sick = dict.fromkeys((rule[0] for rule in self.rules), 0)

    def state_dict(self):
        return dict(self.sick)

    def load_state_dict(self, state):
        self.sick |= state

    def check(self, values, step):
        """Raises GuardStop if one of the figures `values` {name: number} is sick, and has been for long enough."""
        require_finite(values, step)
        for guard, name, bound, above, advice in self.rules:
            value = values[name]
            is_sick = value > bound if above else value < bound
            self.sick[guard] = self.sick[guard] + 1 if is_sick else 0
            if self.sick[guard] >= self.patience:
                side = "above" if above else "below"
                raise GuardStop(
                    guard,
                    f"Guard {guard} stopped the run at step {step}: {name}={value:.4g} was {side} {bound:g} for "
                    f"{self.patience} iterations in a row; {advice}.",
                )


def require_finite(values, step, *, batch=None):
    """Raises GuardStop `non_finite` if a figure is NaN or infinite; called before the optimizer takes its step."""
    for name, value in values.items():
        if not math.isfinite(value):
            where = f"step {step}" if batch is None else f"step {step}, batch {batch}"
            raise GuardStop(
                "non_finite",
                f"Guard non_finite stopped the run at {where}: {name} is {value}; lower the learning rate, or look for "
                "a broken checkpoint among the inputs.",
            )


def require_signal(accuracy, comparisons, *, bound):
    """Raises GuardStop `no_signal` if a reward model orders too few of its held-out comparisons right.

    accuracy: share of the comparisons. Fewer than SIGNAL_COMPARISONS of them cannot tell, and never stop.
    """
    if accuracy < bound and comparisons >= SIGNAL_COMPARISONS:
        raise GuardStop(
            "no_signal",
            f"Guard no_signal stopped the run: the reward model orders {accuracy:.1%} of {comparisons} held-out "
            f"comparisons right, where chance is 50% and reward_model.guard_min_accuracy {bound:.0%}, so PPO would "
            "follow noise; look at how far people agree, make the guidelines clearer, or collect more rankings.",
        )
