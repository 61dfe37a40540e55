"""Generation: which prompts new completions are wanted for, and the tasks that they become.

After a round, a share of the tasks that the project sets mixes two answers of the new policy with two of the old one,
for people to compare blindly (purpose eval); the rest are the new policy's alone (purpose train).
"""

import hashlib
import json
import random
import uuid
from collections import Counter

from django.db.models import Count
from django.utils.translation import gettext as _

from annotation import assignment, completions
from annotation.messages import can_be_ranked
from annotation.models import Pool, Prompt, Purpose
from training import runs

COMPARED_COMPLETIONS = 2  # of each policy in a blind comparison
COMPLETIONS = "completions.jsonl"
BATCH = 500  # digests in one question
# Where tasks take their prompts from: the first pool that has some.
TRAIN_POOLS = (Pool.REWARD, Pool.PPO, Pool.SFT)
COMPARISON_POOLS = (Pool.EVAL, Pool.REWARD, Pool.PPO)


def prompt_file(round, artifact):
    """(uri, digest) of the file of the prompts that a round generates for, chosen once; None where there are none.

    artifact: "prompts" (all of them) or "comparisons" (those that the base policy answers too).
    """
    folder = f"rounds/{round.id}"
    path = runs.data_path(f"{folder}/{artifact}.jsonl")
    all_prompts = path.with_name("prompts.jsonl")
    # A choice of nothing does not stand: prompts may have come since.
    if not all_prompts.exists() or all_prompts.stat().st_size == 0:
        chosen = choose_prompts(round)
        path.parent.mkdir(parents=True, exist_ok=True)
        # `prompts` holds both kinds and is written last: once it is there, the choice stands.
        write_prompts(path.with_name("comparisons.jsonl"), chosen["comparisons"])
        write_prompts(all_prompts, chosen["train"] + chosen["comparisons"])
    if path.stat().st_size == 0:
        return None
    return f"{folder}/{artifact}.jsonl", hashlib.sha256(path.read_bytes()).hexdigest()


def choose_prompts(round):
    """{"train": [...], "comparisons": [...]}: as many prompts as the round's settings ask for, those asked least first.

    The same round chooses the same prompts again, as long as nothing was queued in between.
    """
    settings = next(stage["settings"] for stage in round.recipe if stage["output"] == "completions")
    wanted = settings["tasks_per_round"]
    comparisons = round_to_share(wanted, settings["comparison_share"]) if compares(round) else 0
    compared = least_asked(round, COMPARISON_POOLS, comparisons, taken=set())
    taken = {prompt.digest for prompt in compared}
    return {
        "comparisons": compared,
        "train": least_asked(round, TRAIN_POOLS, wanted - len(compared), taken=taken),
    }


def compares(round):
    return any(stage["output"] == "base_completions" for stage in round.recipe)


def round_to_share(total, share):
    """At least one blind comparison where the project wants any: a round without is blind to its own success."""
    return min(total, max(1, round(total * share))) if share > 0 else 0


def least_asked(round, pools, count, *, taken):
    """`count` prompts of the first pool that has any left, fewest tasks first, chance deciding among equals."""
    for pool in pools:
        asked = Counter()
        rows = Prompt.objects.filter(prompt_set__project=round.project, prompt_set__active=True, pool=pool)
        # A prompt that stands in two sets is one prompt, asked as often as in both.
        for digest, tasks in rows.annotate(asked=Count("tasks")).values_list("digest", "asked").order_by("digest"):
            if digest not in taken:
                asked[digest] += tasks
        if asked and count:
            digests = list(asked)
            random.Random(f"{round.id} {pool}").shuffle(digests)
            chosen = sorted(digests, key=asked.get)[:count]
            by_digest = {}
            for start in range(0, len(chosen), BATCH):
                found = rows.filter(digest__in=chosen[start : start + BATCH])
                by_digest |= {prompt.digest: prompt for prompt in found}
            return [by_digest[digest] for digest in chosen]
    return []


def write_prompts(path, prompts):
    # A name of its own: two passes of the reconciler may write the same file at once.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        for prompt in prompts:
            row = {
                "digest": prompt.digest,
                "messages": prompt.messages,
                "pool": prompt.pool,
                "group": prompt.group,
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    temporary.replace(path)


def queue_tasks(round, *, run, base_run=None):
    """Stores what two generate runs made and queues it as tasks. Returns how many of each kind; inside a transaction.

    Prompts whose set was retired since the round chose them are left out and counted: nobody wants them asked any more.
    run: the new policy's. base_run: that of the base policy, for the prompts that are compared blindly.
    """
    own = read_completions(run)
    of_base = read_completions(base_run) if base_run else {}
    used = active_digests(round.project, own.keys() | of_base.keys())
    counts = {"tasks": 0, "comparisons": 0, "identical": 0, "retired": len(own.keys() - used)}
    own = {digest: group for digest, group in own.items() if digest in used}
    of_base = {digest: group for digest, group in of_base.items() if digest in used}
    rows = [row for by_prompt in (own, of_base) for group in by_prompt.values() for row in group]
    stored = completions.add_completions(round.project, rows=rows)
    rows_by_id = {id(row): completion for row, completion in zip(rows, stored, strict=True)}
    for digest, group in own.items():
        new = [rows_by_id[id(row)] for row in group]
        old = [rows_by_id[id(row)] for row in of_base.get(digest, [])][:COMPARED_COMPLETIONS]
        chosen = new[:COMPARED_COMPLETIONS] + old if old else new
        if len(chosen) < 2:
            continue
        task = assignment.queue_task(
            round.project,
            prompt=new[0].prompt,
            completions=chosen,
            purpose=Purpose.EVAL if old else Purpose.TRAIN,
            # Answers of the newest policy teach most, so they come before what is left of earlier rounds.
            priority=round.number,
            reason=_("round %(number)s") % {"number": round.number},
            batch=str(round.id),
        )
        counts["identical" if task is None else "comparisons" if old else "tasks"] += 1
    return counts


def active_digests(project, digests):
    """Those of these prompts that stand in an active set."""
    rows = Prompt.objects.filter(prompt_set__project=project, prompt_set__active=True)
    digests, found = sorted(digests), set()
    for start in range(0, len(digests), BATCH):
        found |= set(rows.filter(digest__in=digests[start : start + BATCH]).values_list("digest", flat=True))
    return found


def read_completions(run):
    """{prompt digest: rows} of a generate run's output, without answers that nobody can rank (empty, or with a NUL)."""
    by_prompt = {}
    path = runs.data_path(run.output_uri) / COMPLETIONS
    with open(path, encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            if can_be_ranked(row["message"]):
                by_prompt.setdefault(row["prompt_digest"], []).append(row)
    return by_prompt
