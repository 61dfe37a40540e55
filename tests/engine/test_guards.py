"""Guards stop a sick run, name what is sick, and leave a healthy one alone."""

import math

import pytest

from tests.engine.metrics_page import PAGE
from training.engine import config, guards

HEALTHY = {
    "kl_per_completion": 3.0, "entropy": 1.2, "score_deviation": 0.8, "policy_loss": -0.01, "logprob_gap": 0.01,
    "eos_rate": 0.9, "length_mean": 40.0, "clip_fraction": 0.1, "explained_variance": 0.4,
}  # fmt: skip


def make(**settings):
    return guards.Guards(config.build({"ppo": {"guard_patience": 3, **settings}}).ppo)


@pytest.mark.parametrize(
    ("guard", "name", "value"),
    [
        ("kl_blow_up", "kl_per_completion", 41.0),
        ("negative_kl", "kl_per_completion", -5.0),
        ("entropy_collapse", "entropy", 0.001),
        ("flat_reward", "score_deviation", 0.0),
        ("logprob_gap", "logprob_gap", 0.2),
        ("eos_rate", "eos_rate", 0.01),
        ("short_completions", "length_mean", 1.1),
        ("clip_fraction", "clip_fraction", 0.95),
        ("blind_values", "explained_variance", -300.0),
    ],
)
def test_it_stops_on_a_fault_that_lasts_and_names_it(guard, name, value):
    watch = make()
    watch.check({**HEALTHY, name: value}, 1)
    watch.check({**HEALTHY, name: value}, 2)
    with pytest.raises(guards.GuardStop, match=f"Guard {guard} stopped the run at step 3: {name}=") as caught:
        watch.check({**HEALTHY, name: value}, 3)
    assert caught.value.guard == guard


def test_it_forgets_a_fault_that_passes():
    watch = make()
    for step in range(12):
        watch.check({**HEALTHY, "entropy": 0.001 if step % 3 else 1.0}, step)


def test_it_goes_on_from_counts_that_were_kept_before_a_guard_was_added():
    watch = make()
    watch.load_state_dict({"entropy_collapse": 2})
    with pytest.raises(guards.GuardStop, match="entropy_collapse"):
        watch.check({**HEALTHY, "entropy": 0.001}, 9)


def test_it_documents_every_guard():
    page = (PAGE.parent / "engine.md").read_text(encoding="utf-8")
    for guard in ("non_finite", *(rule[0] for rule in make().rules)):
        assert f"| {guard} |" in guards.__doc__
        assert f"| `{guard}` |" in page


def test_it_leaves_a_healthy_run_alone():
    watch = make()
    for step in range(50):
        watch.check(HEALTHY, step)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_it_stops_at_once_on_a_figure_that_is_not_finite(value):
    with pytest.raises(guards.GuardStop, match="Guard non_finite stopped the run at step 7: policy_loss is") as caught:
        make().check({**HEALTHY, "policy_loss": value}, 7)
    assert caught.value.guard == "non_finite"


def test_it_names_the_batch_of_a_loss_that_is_not_finite():
    with pytest.raises(guards.GuardStop, match="at step 4, batch 2: loss is nan"):
        guards.require_finite({"loss": math.nan}, 4, batch=2)
