"""One whole round with the real engine, on a policy of a few thousand weights."""

import math

import pytest

from annotation import assignment, completions, rankings
from annotation.models import Completion, Task
from tests.engine.conftest import STORIES
from training import checkpoints, launcher, metrics, plans, rounds
from training.models import Checkpoint, RoundState, Run, RunState

pytestmark = [pytest.mark.django_db, pytest.mark.slow]  # five starts of torch

QUICK = {
    "run.device": "cpu",
    "run.threads": 1,
    "reward_model.epochs": 1,
    "reward_model.normalise_prompts": 4,
    "ppo.iterations": 2,
    "ppo.batch_size": 8,
    "ppo.minibatch_size": 8,
    "ppo.max_new_tokens": 12,
    "generate.sampling.max_new_tokens": 12,
    "evaluate.prompts": 3,
    "evaluate.sampling.max_new_tokens": 12,
}


@pytest.fixture
def starter(project, tmp_path):
    """A promoted SFT policy that has learned nothing, made by the engine."""
    import torch

    from training.engine import checkpoint, families, sections, tokenizer
    from training.engine.transformer import Transformer

    words = tokenizer.train(STORIES, vocab_size=300)
    shape = sections.ModelConfig(hidden_size=32, intermediate_size=48, n_layers=2, n_heads=4, n_kv_heads=2)
    policy = Transformer(families.from_scratch(shape, words.vocab_size)).initialise(torch.Generator().manual_seed(0))
    checkpoint.save_policy(policy, words, tmp_path / "starter")
    made = checkpoints.add_checkpoint(project, role="sft", path=tmp_path / "starter", name="starter")
    return checkpoints.promote(made)


@pytest.fixture
def ranked(project, prompts, annotator):
    """Six rankings of four stories: the longer, the better."""
    for prompt in prompts[:6]:
        rows = [
            {
                "prompt": prompt,
                "message": {"role": "assistant", "content": " ".join(["The fox had a kite."] * length)},
                "generator": {"kind": "import"},
            }
            for length in (1, 2, 3, 4)
        ]
        assignment.queue_task(project, prompt=prompt, completions=completions.add_completions(project, rows=rows))
    for number in range(6):
        leased = assignment.next_assignment(project, annotator=annotator)
        cards = Completion.objects.in_bulk(leased.presented_order)
        texts = {str(id): card.message["content"] for id, card in cards.items()}
        order = [[card] for card in sorted(map(str, leased.presented_order), key=lambda id: -len(texts[id]))]
        rankings.submit_ranking(leased, annotator=annotator, client_id=f"c{number}", order=order)


def test_it_closes_the_loop_with_the_real_engine(project, starter, ranked):
    plans.change_plan(project, preset="tiny", overrides=QUICK, tasks_per_round=4, comparison_share=0.5)
    round = rounds.start_round(project)
    for _stage in range(7):
        rounds.advance(round.id)
        run = Run.objects.filter(round=round, state=RunState.QUEUED).first()
        if run is None:
            break
        launcher.supervise(run.id, owner="test")
        run.refresh_from_db()
        assert run.state == RunState.SUCCEEDED, (run.stage, run.message, metrics.log(run))
    round.refresh_from_db()
    assert round.state == RoundState.SUCCEEDED, round.message

    ppo = round.runs.get(stage="ppo")
    shown = metrics.series(ppo)
    assert len(shown) == 2
    assert all(math.isfinite(shown[-1]["values"][name]) for name in ("score_mean", "kl_per_completion", "entropy"))
    assert metrics.samples(ppo)
    policy = Checkpoint.objects.get(digest=round.result["policy"])
    assert (policy.parent, policy.run) == (starter, ppo)
    assert 0 <= round.result["win_rate"] <= 1
    made = Completion.objects.filter(tasks__batch=str(round.id))
    assert {row.policy_digest for row in made} <= {policy.digest, starter.digest}
    assert policy.digest in {row.policy_digest for row in made}
    assert Task.objects.filter(batch=str(round.id)).count() == round.result["tasks"] + round.result["comparisons"]
    assert checkpoints.promote(policy).state == "promoted"
