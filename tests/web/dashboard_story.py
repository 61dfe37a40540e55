"""Projects in the states that the dashboard shows, made row by row: nothing is trained."""

import datetime
import math

from django.utils import timezone

from annotation.messages import messages_digest, text_sha256
from annotation.models import Completion, Guideline, Membership, Prompt, PromptSet, Ranking, Slot, Snapshot, Task
from training.models import Attempt, Checkpoint, Metric, Round, Run, RunEvent
from training.rounds import default_recipe

OLD_STORY = "Once there was a shy fox in the wood. The fox found a kite. It rained, and the fox walked home alone."
NEW_STORY = (
    "Once there was a shy fox in the wood. The fox found a kite, and a hen helped to mend its tail. They flew it "
    "together until the moon came up, and the fox was not shy any more."
)


def add_prompts(project, count=12):
    prompt_set = PromptSet.objects.create(project=project, name="stories", file_sha256="0" * 64)
    return [add_prompt(prompt_set, position) for position in range(1, count + 1)]


def add_prompt(prompt_set, position):
    asked = [{"role": "user", "content": f"Tell a story about a shy fox and kite number {position}."}]
    return Prompt.objects.create(
        prompt_set=prompt_set,
        digest=messages_digest(asked),
        messages=asked,
        pool=("reward", "ppo", "eval", "sft")[position % 4],
        group=str(position),
        position=position,
    )


def add_policy(project, name="Starter", **fields):
    number = Checkpoint.objects.count() + 1
    values = {"role": "sft", "state": "promoted", "uri": f"checkpoints/{number}", "size_bytes": 2_400_000} | fields
    return Checkpoint.objects.create(project=project, name=name, digest=f"{number:064x}", **values)


def add_task(project, prompt, digests, purpose="train"):
    """One task with an answer of each policy digest, and its open slot."""
    task = Task.objects.create(project=project, prompt=prompt, purpose=purpose)
    for position, digest in enumerate(digests):
        message = {"role": "assistant", "content": f"{OLD_STORY} {position}"}
        completion = Completion.objects.create(
            prompt=prompt,
            message=message,
            text_sha256=text_sha256(message),
            generator={"kind": "checkpoint", "digest": digest},
            policy_digest=digest,
        )
        task.entries.create(completion=completion, position=position, card=position)
    Slot.objects.create(task=task, number=1, project=project, shuffle=position)
    return task


def rank(task, annotator, order, source="annotator", seconds=14.0):
    """order: positions of the task's completions, best first."""
    ids = [str(entry.completion_id) for entry in task.entries.order_by("position")]
    Slot.objects.filter(task=task).update(state="done")
    return Ranking.objects.create(
        task=task,
        annotator=annotator,
        source=source,
        client_id=f"{task.id}"[:40],
        body_sha256="0" * 64,
        order=[[ids[position]] for position in order],
        presented_order=ids,
        seconds=seconds,
        prompt_set_version=1,
    )


def add_rankings(project, annotator, count, source="annotator"):
    """Rankings that train: the eval pool's measure."""
    prompts = list(Prompt.objects.filter(prompt_set__project=project).exclude(pool="eval"))
    for index in range(count):
        task = add_task(project, prompts[index % len(prompts)], ["a" * 64, "b" * 64])
        rank(task, annotator, [0, 1], source=source, seconds=10 + index % 7)


def add_member(project, user, role="annotator", simulated=False):
    return Membership.objects.create(
        project=project, user=user, role=role, pseudonym=f"person-{user.username}"[:32], simulated=simulated
    )


def add_run(project, stage, state="succeeded", *, round=None, position=0, step=40, total_steps=40, **fields):
    now = timezone.now()
    return Run.objects.create(
        project=project,
        round=round,
        position=position,
        stage=stage,
        state=state,
        step=step,
        total_steps=total_steps,
        started_at=now - datetime.timedelta(seconds=step * 2),
        finished_at=now if state in ("succeeded", "failed", "stopped_by_guard", "cancelled") else None,
        **fields,
    )


def metrics_at(stage, step):
    """Curves as a healthy run draws them."""
    if stage == "reward_model":
        values = {"accuracy": 0.86 - 0.34 * math.exp(-step / 9), "loss": 0.69 * math.exp(-step / 25)}
        values["rankings_per_second"] = 24 + math.sin(step)
        if step % 8 == 0:
            values |= {"validation_accuracy": 0.76 - 0.24 * math.exp(-step / 10), "validation_loss": 0.55}
        return values
    return {
        "score_mean": 1.6 * (1 - math.exp(-step / 14)) + 0.06 * math.sin(step * 1.7),
        "kl_per_completion": 2.8 * (1 - math.exp(-step / 20)) + 0.04 * math.sin(step),
        "length_mean": 47 + 2 * math.sin(step / 3),
        "entropy": 1.1 - 0.006 * step,
        "eos_rate": 0.98,
        "explained_variance": 0.7,
        "episodes_per_second": 61 + 3 * math.cos(step),
    }


def add_metrics(run, first, last):
    Metric.objects.bulk_create(
        Metric(run=run, step=step, values=metrics_at(run.stage, step), time=timezone.now())
        for step in range(first, last + 1)
    )


def add_samples(run, count=4, step=20):
    samples = [
        {
            "prompt": f"Tell a story about a shy fox and kite number {index}.",
            "completion": NEW_STORY,
            "reference": OLD_STORY,
            "score": 1.4 - index / 10,
            "reference_score": -0.3,
        }
        for index in range(count)
    ]
    RunEvent.objects.create(run=run, kind="samples", step=step, payload={"samples": samples}, time=timezone.now())


def add_round(project, number, state, base, **fields):
    return Round.objects.create(
        project=project, number=number, state=state, base_policy=base, recipe=default_recipe(), **fields
    )


def finished_round(project, number=1, base=None, rankings=80):
    """A round that ran to its end; its policy waits to be promoted."""
    base = base or Checkpoint.objects.get(project=project, state="promoted")
    snapshot = Snapshot.objects.create(
        project=project,
        number=number,
        uri=f"snapshots/{number}",
        digest=f"{number:064x}",
        counts={"rankings": rankings},
    )
    word = {"win_rate": 0.84, "win_rate_low": 0.79, "win_rate_high": 0.88, "prompts": 256, "kl_per_completion": 2.7}
    row = add_round(project, number, "succeeded", base, snapshot=snapshot, result=word, finished_at=timezone.now())
    reward_model = add_run(project, "reward_model", round=row, position=0, summary={"validation_accuracy": 0.74})
    add_metrics(reward_model, 1, 40)
    ppo = add_run(project, "ppo", round=row, position=1, summary={"score_mean": 1.5})
    add_metrics(ppo, 1, 40)
    add_samples(ppo)
    for position, stage in ((2, "evaluate"), (3, "generate"), (4, "generate")):
        add_run(project, stage, round=row, position=position)
    add_policy(project, f"Round {number} policy", role="policy", state="verified", run=ppo, parent=base, figures=word)
    add_policy(
        project,
        f"Round {number} reward model",
        role="reward_model",
        state="verified",
        run=reward_model,
        figures={"validation_accuracy": 0.74},
    )
    return row


def running_round(project, number=2, step=12):
    """A round in the middle of PPO."""
    base = Checkpoint.objects.get(project=project, state="promoted")
    row = add_round(project, number, "running", base)
    reward_model = add_run(project, "reward_model", round=row, position=0, summary={"validation_accuracy": 0.76})
    add_metrics(reward_model, 1, 40)
    ppo = add_run(project, "ppo", "running", round=row, position=1, step=step, total_steps=40)
    add_metrics(ppo, 1, step)
    add_samples(ppo)
    Attempt.objects.create(run=ppo, number=1, fence=1, directory=f"runs/{ppo.id}/1", last_step=step)
    return row


def judge_blind(project, annotator, row, wins, losses, source="annotator"):
    """Blind comparisons of a round's policy with its base."""
    made = Checkpoint.objects.get(run__round=row, role="policy")
    prompts = list(Prompt.objects.filter(prompt_set__project=project))
    for index in range(wins + losses):
        task = add_task(project, prompts[index % len(prompts)], [made.digest, row.base_policy.digest], purpose="eval")
        rank(task, annotator, [0, 1] if index < wins else [1, 0], source=source)


def add_guideline(project):
    return Guideline.objects.create(project=project, version=1, text="Prefer stories with a kind ending.")
