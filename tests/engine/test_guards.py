"""Guards stop a sick run, name what is sick, and leave a healthy one alone."""

import math

import pytest

from training.engine import config, guards

HEALTHY = {"kl_per_completion": 3.0, "entropy": 1.2, "score_deviation": 0.8, "policy_loss": -0.01}


def make(**settings):
    return guards.Guards(config.build({"ppo": {"guard_patience": 3, **settings}}).ppo)


@pytest.mark.parametrize(
    ("guard", "name", "value"),
    [
        ("kl_blow_up", "kl_per_completion", 41.0),
        ("negative_kl", "kl_per_completion", -5.0),
        ("entropy_collapse", "entropy", 0.001),
        ("flat_reward", "score_deviation", 0.0),
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
