"""Bugs that were published, put back in one at a time: for each, a named test of ours must fail.

Each line: its row in the list of what a right PPO gets right, what is wrong, how to break it here, and the test that
has to notice. A test that passes with its bug in place would be no test.
"""

import inspect
from dataclasses import dataclass, replace

import pytest
import torch

from tests.engine import (
    test_checkpoint,
    test_families,
    test_losses,
    test_ppo,
    test_reward_model,
    test_rollout,
    test_sampling,
)
from training.engine import heads, losses, players, ppo, rollout, sampling, transformer
from training.engine.guards import Guards
from training.engine.progress import Progress

ppo_world, rewards_world = test_ppo.world, test_reward_model.world  # fixtures


@dataclass(frozen=True, kw_only=True)
class Mutation:
    row: str  # of the checklist
    bug: str
    owner: object
    attribute: str
    make: object  # what stands there -> what is to stand there
    test: object
    arguments: dict


def mutation(row, bug, owner, attribute, make, test, **arguments):
    return Mutation(row=row, bug=bug, owner=owner, attribute=attribute, make=make, test=test, arguments=arguments)


def reference_as_old(roll_out):
    def mutant(*arguments, **named):
        drawn, readings = roll_out(*arguments, **named)
        return replace(drawn, old_logprobs=drawn.ref_logprobs), readings

    return mutant


def dropped_out(forward):
    return lambda self, x: torch.nn.functional.dropout(forward(self, x), 0.1, self.training)


def always(function, **forced):
    return lambda *arguments, **named: function(*arguments, **{**named, **forced})


def mask_by_id(pad):
    def mutant(rows, pad_id, device):
        ids, _ = pad(rows, pad_id, device)
        return ids, ids != pad_id

    return mutant


def score_in_last_column(token_rewards):
    def mutant(scores, logprobs, ref_logprobs, action_mask, kl_coef):
        rewards = token_rewards(torch.zeros_like(scores), logprobs, ref_logprobs, action_mask, kl_coef)
        rewards[:, -1] += scores
        return rewards

    return mutant


def no_clip_of_the_error(update):
    def mutant(self, kl_per_completion, episodes):
        self.kl_coef *= 1 + (kl_per_completion / self.target - 1) * episodes / self.horizon

    return mutant


def advantages_through_padding(gae):
    return lambda rewards, values, mask, *rest: gae(rewards, values, torch.ones_like(mask), *rest)


def larger_of_both(policy_loss):
    def mutant(logprobs, old_logprobs, advantages, action_mask, *, clip_range, denominator):
        ratio = (logprobs - old_logprobs).exp()
        objective = torch.maximum(ratio * advantages, ratio.clamp(1 - clip_range, 1 + clip_range) * advantages)
        return -torch.where(action_mask, objective, 0.0).sum() / denominator

    return mutant


def value_clip_unclipped(value_loss):
    return lambda *arguments, value_clip_range, denominator: value_loss(
        *arguments, value_clip_range=0.0, denominator=denominator
    )


def fresh_head(deepcopy):
    def mutant(thing, *rest):
        twin = deepcopy(thing, *rest)
        if isinstance(twin, heads.RewardModel):
            torch.nn.init.zeros_(twin.head.weight)
        return twin

    return mutant


def a_token_late(values):
    return lambda self, trajectories, hidden: values(self, trajectories, hidden).roll(-1, 1)


def of_small_weights(init):
    def mutant(self, *arguments, **named):
        init(self, *arguments, **named)
        self.weight.data.mul_(0.02 * self.weight.shape[1] ** 0.5)

    return mutant


def gain_alone(fold):
    return lambda self, gain, shift: fold(self, gain, 0.0)


def pairs_as_elements(collate):
    def mutant(orders, weights=None, *, device=None):
        found = collate(orders, weights, device=device)
        return found._replace(weight=torch.ones_like(found.weight))

    return mutant


def with_adams_own_epsilon(build_optimizer):
    def mutant(*arguments):
        optimizer = build_optimizer(*arguments)
        for group in optimizer.param_groups:
            group["eps"] = 1e-8
        return optimizer

    return mutant


def mean_of_each_pass(policy_loss):
    def mutant(logprobs, old_logprobs, advantages, action_mask, *, clip_range, denominator):
        return policy_loss(
            logprobs, old_logprobs, advantages, action_mask, clip_range=clip_range, denominator=action_mask.sum()
        )

    return mutant


def without_optimizers(track):
    return lambda self, **parts: track(self, **{k: part for k, part in parts.items() if "optimizer" not in k})


def only_the_end_of_text(cut_at_stop):
    return lambda sample, stop_ids: cut_at_stop(sample, (1,))


MUTATIONS = [
    mutation("1", "the reference's log-probs as the old ones", ppo, "roll_out", reference_as_old,
             test_ppo.test_it_logs_a_first_ratio_of_one),
    mutation("2", "dropout left on", transformer.Mlp, "forward", dropped_out, test_ppo.test_it_has_no_dropout),
    mutation("3", "temperature in the sampler alone", rollout, "distribution", lambda f: always(f, temperature=1.0),
             test_ppo.test_it_starts_with_ratio_one_and_no_kl, temperature=0.7),
    mutation("4", "top-k of a generation config leaks into rollouts", sampling, "filter_logits",
             lambda f: always(f, top_k=20), test_sampling.test_it_records_the_logprobs_of_what_it_sampled_from,
             temperature=1.0),
    mutation("5", "positions that count padding", transformer, "positions_from_mask",
             lambda _: lambda mask: torch.arange(mask.shape[1]).expand(mask.shape),
             test_families.test_it_reads_and_writes_each_family_as_the_transformers_library_does,
             name="gpt2", size="small"),
    mutation("6", "a mask made by comparing ids with padding", rollout, "_pad", mask_by_id,
             test_rollout.test_it_keeps_every_token_of_a_completion_whatever_its_id),
    mutation("7", "what follows the first stop is kept", rollout, "truncate_at_stop",
             lambda _: lambda ids, stops: (list(ids), bool(set(ids) & set(stops))),
             test_ppo.test_it_cuts_a_completion_at_its_first_stop_before_anything_else),
    mutation("8", "a cut-off completion keeps its score", rollout, "scores_with_ends",
             lambda _: lambda scores, ended, missing: scores, test_ppo.test_it_fines_a_completion_that_does_not_end),
    mutation("9", "only the end of text counts as a stop", rollout, "cut_at_stop", only_the_end_of_text,
             test_ppo.test_it_fines_a_completion_that_does_not_end),
    mutation("10", "the score in the last column, padding or not", rollout, "token_rewards", score_in_last_column,
             test_rollout.test_it_places_kl_on_each_action_and_the_score_on_the_last),
    mutation("11", "KL rewarded instead of charged", rollout, "token_rewards",
             lambda f: lambda scores, logprobs, ref, mask, kl_coef: f(scores, logprobs, ref, mask, -kl_coef),
             test_rollout.test_it_adds_up_to_the_score_less_the_kl_penalty),
    mutation("12", "the adaptive KL without its clip", rollout.KlController, "update", no_clip_of_the_error,
             test_rollout.test_it_steers_kl_to_the_target),
    mutation("13", "advantages that reach into padding", rollout, "gae", advantages_through_padding,
             test_rollout.test_it_does_not_see_what_stands_in_the_padding),
    mutation("13", "lambda and gamma mixed up", rollout, "gae",
             lambda f: lambda rewards, values, mask, gamma, gae_lambda: f(rewards, values, mask, gae_lambda, gamma),
             test_rollout.test_it_estimates_advantages_by_hand),
    mutation("14", "advantages whitened with their mean kept", rollout, "whiten", lambda f: always(f, keep_mean=True),
             test_rollout.test_it_whitens_to_mean_zero_and_variance_one_over_the_mask),
    mutation("14", "advantages whitened over padding", rollout, "whiten",
             lambda f: lambda x, mask, **named: torch.where(mask, f(x, torch.ones_like(mask), **named), 0.0),
             test_rollout.test_it_whitens_the_same_however_the_padding_is_laid_out),
    mutation("15", "rewards whitened, mean and all, where only their scale should go", rollout, "whiten",
             lambda f: always(f, keep_mean=False),
             test_ppo.test_it_turns_a_rollout_into_advantages_as_the_settings_say, whiten_rewards=True),
    mutation("16", "the larger of clipped and unclipped", losses, "policy_loss", larger_of_both,
             test_losses.test_it_has_no_policy_gradient_past_the_clip, ratio=1.3, advantage=1.0, moves=False),
    mutation("17", "a value loss that does not clip", losses, "value_loss", value_clip_unclipped,
             test_losses.test_it_clips_the_value_loss_by_hand),
    mutation("18", "a value network with a fresh head", players.copy, "deepcopy", fresh_head,
             test_ppo.test_it_starts_the_value_network_as_the_reward_model),
    mutation("18a", "the value of an action sees its own token", players.Players, "values", a_token_late,
             test_ppo.test_it_values_an_action_by_what_stands_before_it, value_network="separate"),
    mutation("19", "a head with the deviation of other layers", heads.ScalarHead, "__init__", of_small_weights,
             test_checkpoint.test_it_starts_the_head_at_the_papers_deviation),
    mutation("20", "scores scaled but not shifted", heads.RewardModel, "fold", gain_alone,
             test_reward_model.test_it_has_scores_of_mean_zero_and_deviation_one_after_a_reload),
    mutation("21", "every comparison an element of its own", losses, "collate_comparisons", pairs_as_elements,
             test_losses.test_it_scores_a_ranking_by_hand),
    mutation("22", "Adam's own epsilon", ppo, "build_optimizer", with_adams_own_epsilon,
             test_ppo.test_it_reads_adam_epsilon_from_the_optimizer_itself),
    mutation("23", "a learning rate that stays", ppo, "learning_rate",
             lambda _: lambda optim, step, total_steps: optim.learning_rate,
             test_ppo.test_it_lowers_the_learning_rate_to_zero_in_a_line),
    mutation("25", "a mean in each micro-batch", losses, "policy_loss", mean_of_each_pass,
             test_ppo.test_it_makes_one_step_of_eight_micro_batches_or_one, value_network="separate"),
    mutation("26", "metrics averaged over padding", rollout, "masked_mean", lambda _: lambda x, mask: x.mean(),
             test_ppo.test_it_reads_means_over_the_tokens_that_count),
    mutation("29", "Adam's moments lost on resume", Progress, "track", without_optimizers,
             test_ppo.test_it_resumes_as_if_it_had_never_stopped, value_network="separate"),
    mutation("30", "alarms that nobody hears", Guards, "check", lambda _: lambda self, values, step: None,
             test_ppo.test_it_stops_on_a_flat_reward),
]  # fmt: skip


@pytest.mark.parametrize("case", MUTATIONS, ids=[f"row {case.row}: {case.bug}" for case in MUTATIONS])
def test_it_has_a_test_that_fails_with_the_bug(case, request, monkeypatch):
    worlds = {test_ppo: "ppo_world", test_reward_model: "rewards_world"}
    fixtures = {"world": worlds.get(inspect.getmodule(case.test))}
    named = inspect.signature(case.test).parameters
    arguments = {
        name: case.arguments[name] if name in case.arguments else request.getfixturevalue(fixtures.get(name) or name)
        for name in named
    }
    monkeypatch.setattr(case.owner, case.attribute, case.make(getattr(case.owner, case.attribute)))
    # `Failed` is what pytest.raises says where nothing was raised.
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        case.test(**arguments)


def test_it_breaks_at_least_fifteen_rows():
    assert len({case.row for case in MUTATIONS}) >= 15
