"""Rounds: one turn of the loop, from a frozen snapshot to new tasks for people.

A round follows a recipe: stages whose inputs and outputs are artifacts by name. The names that a round begins with are
`sft` (the SFT policy, the KL reference), `base` (the policy promoted when it began) and `snapshot`; `prompts` are those
that new completions are wanted for, `comparisons` those of them that the base answers too. Each stage adds its output:

    {"stage": "ppo", "inputs": {"policy": "base", ...}, "output": "policy", "overrides": {"ppo.kl_coef": 0.1}}

A round adds to each stage the settings that the project's plan has when it begins.

`advance` takes a round one step further whenever a run of it has ended. It may be called at any time, twice too.
"""

import json
import logging

from django.db import IntegrityError, transaction
from django.db.models import Max
from django.utils import timezone
from django.utils.translation import gettext as _

from annotation import snapshots
from annotation.agreement import count_comparisons
from annotation.audit import record_event
from annotation.models import Prompt, Ranking
from training import checkpoints, generation, plans, runs
from training.models import (
    ACTIVE_ROUND_STATES,
    Checkpoint,
    Plan,
    Round,
    RoundState,
    Run,
    RunState,
)

LEAST_COMPARISONS = 10
FILE_ARTIFACTS = ("prompts", "comparisons")
REPORT = "report.json"

logger = logging.getLogger(__name__)


class RoundError(ValueError):
    """A round cannot be started or changed so. One sentence for people."""


class SettingsError(RoundError):
    """The settings asked for make no valid configuration."""


def default_recipe():
    return [
        {
            "stage": "reward_model",
            "inputs": {"policy": "sft", "rankings": "snapshot", "prompts": "snapshot"},
            "output": "reward_model",
        },
        {
            "stage": "ppo",
            "inputs": {"policy": "base", "ref_policy": "sft", "reward_model": "reward_model", "prompts": "snapshot"},
            "output": "policy",
        },
        {
            "stage": "evaluate",
            "inputs": {"policy": "policy", "ref_policy": "base", "reward_model": "reward_model", "prompts": "snapshot"},
            "output": "report",
        },
        {"stage": "generate", "inputs": {"policy": "policy", "prompts": "prompts"}, "output": "completions"},
        {"stage": "generate", "inputs": {"policy": "base", "prompts": "comparisons"}, "output": "base_completions"},
    ]


def start_round(project, *, created_by=None, idempotency_key="", recipe=None, overrides=None):
    """A new round, or the one that this idempotency key began before.

    overrides: engine settings of this round alone, over the plan's, nested or dotted.
    Raises RoundError with one sentence, and makes nothing, where the project is not ready for it.
    """
    if idempotency_key and (existing := project.rounds.filter(idempotency_key=idempotency_key).first()):
        return existing
    if project.archived_at:
        raise RoundError(_("The project is archived; take it up again on the page “Settings” first."))
    recipe = default_recipe() if recipe is None else recipe
    base = checkpoints.promoted(project)
    if base is None:
        raise RoundError(_("There is no promoted policy to improve; add a checkpoint and promote it first."))
    if not has_prompts(project):
        raise RoundError(_("There are no prompts yet; import a set of prompts first."))
    if uses(recipe, "snapshot"):
        refuse_too_few(project)
    try:
        plan = plans.plan_for(project)
        own = runs.flattened(overrides or {})
        runs.resolve_config({**plan.overrides, **own}, preset=plan.preset)
    except runs.RunError as error:
        raise SettingsError(str(error)) from None
    recipe = [{**stage, "overrides": {**own, **stage.get("overrides", {})}} for stage in recipe]
    recipe = with_settings(recipe, plan)
    try:
        with transaction.atomic():
            round = Round.objects.create(
                project=project,
                number=next_number(project, recipe),
                recipe=recipe,
                idempotency_key=idempotency_key,
                base_policy=base,
                created_by=created_by,
                message=_("Freezing the judgments …"),
            )
            record_event(project, actor=created_by, action="round.started", subject=round.number)
            transaction.on_commit(lambda: runs.wake_round(round.id))
    except IntegrityError:
        existing = project.rounds.filter(idempotency_key=idempotency_key).first() if idempotency_key else None
        if existing:
            return existing
        raise RoundError(_("A round is running already; wait for its end, or cancel it.")) from None
    return round


def first_completions(project, *, created_by=None):
    """A round that only lets the promoted policy answer prompts and queues its answers: how a project begins.

    Raises RoundError with one sentence where there is no policy, or no prompt to ask about.
    """
    if not plans.plan_for(project).tasks_per_round or not has_prompts(project, pool__in=generation.TRAIN_POOLS):
        raise RoundError(_("There are no prompts to ask about; import a set of prompts, or ask for new tasks."))
    recipe = [{"stage": "generate", "inputs": {"policy": "base", "prompts": "prompts"}, "output": "completions"}]
    return start_round(project, created_by=created_by, recipe=recipe)


def advance(round_id):
    """Takes an active round as far as it goes now: prepares it, starts its next stage, or ends it."""
    round = Round.objects.select_related("project", "base_policy", "snapshot").filter(id=round_id).first()
    if round is None or not round.is_active():
        return
    if round.state == RoundState.PREPARING:
        prepare(round)
        return
    run = Run.objects.filter(round=round).order_by("-position").first()
    if run is None:
        start_stage(round, 0)
    elif run.state == RunState.SUCCEEDED:
        start_stage(round, run.position + 1)
    elif run.state == RunState.CANCELLED:
        end(round, RoundState.CANCELLED, _("Cancelled."))
    elif run.is_ended():
        end(round, RoundState.FAILED, run.message)


def retry(round, *, actor=None):
    """Takes a failed round up again at the stage that failed, with the plan's settings of today.

    Raises RoundError with one sentence where it did not fail, or those settings fit no more.
    """
    run = Run.objects.filter(round=round).order_by("-position").first()
    try:
        with transaction.atomic():
            hit = Round.objects.filter(id=round.id, state=RoundState.FAILED).update(
                state=RoundState.RUNNING if run else RoundState.PREPARING, message="", finished_at=None
            )
            if not hit:
                raise RoundError(_("Only a round that failed can be taken up again."))
            # What is done stays as it was made; what is still to come follows the plan of today.
            done = run.position + (run.state == RunState.SUCCEEDED) if run else 0
            round.recipe[done:] = with_settings(round.recipe[done:], plans.plan_for(round.project))
            Round.objects.filter(id=round.id).update(recipe=round.recipe)
            if run and run.state in (RunState.FAILED, RunState.STOPPED_BY_GUARD):
                runs.retry(run, config=stage_config(round, round.recipe[run.position]), actor=actor)
            record_event(round.project, actor=actor, action="round.retried", subject=round.number)
            transaction.on_commit(lambda: runs.wake_round(round.id))
    except runs.RunError as error:
        raise SettingsError(str(error)) from None
    except IntegrityError:
        raise RoundError(_("Another round is running; wait for its end, or cancel it.")) from None
    round.refresh_from_db()
    return round


def cancel(round, *, actor=None):
    """Ends an active round and the run that it is at."""
    with transaction.atomic():
        if not end(round, RoundState.CANCELLED, _("Cancelled.")):
            raise RoundError(_("This round has ended already."))
        record_event(round.project, actor=actor, action="round.cancelled", subject=round.number)
    for run in Run.objects.filter(round=round):
        runs.request_cancel(run, actor=actor)
    round.refresh_from_db()
    return round


def reconcile():
    """Advances rounds whose message was lost, and starts those that plans ask for."""
    for round_id in Round.objects.filter(state__in=ACTIVE_ROUND_STATES).values_list("id", flat=True):
        try:
            advance(round_id)
        except Exception:
            # One round that cannot go on must not hold up the others.
            logger.exception("The round %s could not be advanced", round_id)
    for plan in Plan.objects.filter(retrain_after_rankings__gt=0, project__archived_at=None).select_related("project"):
        start_if_due(plan)


def start_if_due(plan):
    """Starts a round by itself when enough rankings came in since the last one. Returns it, or None."""
    last = plan.project.rounds.order_by("-number").first()
    if last and last.is_active():
        return None
    fresh = training_rankings(plan.project)
    if last:
        fresh = fresh.first_made_after(last.created_at)
    if fresh.count() < plan.retrain_after_rankings:
        return None
    try:
        return start_round(plan.project)
    except RoundError as error:
        logger.info("The automatic round of %s waits: %s", plan.project.slug, error)
        return None


# Steps of `advance`


def prepare(round):
    """Freezes the snapshot that the recipe asks for. Two at once make two snapshots, of which one is used."""
    if uses(round.recipe, "snapshot") and round.snapshot is None:
        try:
            refuse_too_few(round.project)
            snapshot = snapshots.freeze(round.project, created_by=round.created_by)
        except (ValueError, OSError) as error:
            end(round, RoundState.FAILED, _("The judgments could not be frozen: %(why)s") % {"why": error})
            return
        Round.objects.filter(id=round.id, state=RoundState.PREPARING, snapshot=None).update(snapshot=snapshot)
    hit = Round.objects.filter(id=round.id, state=RoundState.PREPARING).update(state=RoundState.RUNNING, message="")
    if hit:
        advance(round.id)


def start_stage(round, position):
    """Queues the run of one stage, or ends the round after the last; a second call finds the first one's."""
    if position == len(round.recipe):
        conclude(round)
        return
    stage = round.recipe[position]
    try:
        inputs, files = stage_inputs(round, stage, position)
        if None in files.values():
            drop_stage(round, stage)
            start_stage(round, position)
            return
        with transaction.atomic():
            # Locked, so that a cancel at this moment either comes first or finds the run that it has to end.
            if not Round.objects.select_for_update().get(id=round.id).is_active():
                return
            runs.create_run(
                round.project,
                stage=stage["stage"],
                config=stage_config(round, stage),
                inputs=inputs,
                files=files,
                round=round,
                position=position,
                created_by=round.created_by,
            )
    except (runs.RunError, OSError) as error:
        end(round, RoundState.FAILED, str(error))


def drop_stage(round, stage):
    """Goes on without a stage that has nothing to generate for, such as blind comparisons that nobody asked for."""
    with transaction.atomic():
        locked = Round.objects.select_for_update().get(id=round.id)
        # Where there are no prompts at all, none of them are compared either.
        idle = FILE_ARTIFACTS if stage["inputs"]["prompts"] == "prompts" else (stage["inputs"]["prompts"],)
        round.recipe = [kept for kept in locked.recipe if kept["inputs"].get("prompts") not in idle]
        Round.objects.filter(id=round.id).update(recipe=round.recipe)


def conclude(round):
    """Queues the tasks and ends the round, in one transaction: the tasks are queued once."""
    policy = output_checkpoint(round, "policy")
    try:
        with transaction.atomic():
            locked = Round.objects.select_for_update().get(id=round.id)
            if locked.state != RoundState.RUNNING:
                return
            result = figures(round)
            if run := output_run(round, "completions"):
                result |= generation.queue_tasks(round, run=run, base_run=output_run(round, "base_completions"))
            if policy:
                checkpoints.record_figures(policy, evaluation(round))
            end(round, RoundState.SUCCEEDED, "", result=result)
    except (ValueError, KeyError, TypeError, OSError) as error:
        # Whatever a damaged file holds: a round that no pass can end would seem to run for ever.
        end(round, RoundState.FAILED, _("The new answers could not be queued: %(why)s") % {"why": error})
        return
    if policy and plans.plan_for(round.project).auto_promote:
        promote_if_better(round, policy, result)


def promote_if_better(round, policy, result):
    """Promotes the new policy where it beats the old one for sure, by the reward model's word on prompts that training
    never saw."""
    if (result.get("win_rate_low") or 0) <= 0.5 or result.get("trainable_share"):
        return
    try:
        checkpoints.promote(policy)
    except checkpoints.CheckpointError as error:
        logger.warning("The policy of round %s was not promoted: %s", round.number, error)
    else:
        Round.objects.filter(id=round.id).update(result={**result, "auto_promoted": True})


def end(round, state, message, *, result=None):
    values = {"result": result} if result is not None else {}
    active = Round.objects.filter(id=round.id, state__in=ACTIVE_ROUND_STATES)
    return active.update(state=state, message=message, finished_at=timezone.now(), **values) == 1


# What a stage gets


def stage_config(round, stage):
    """The settings that the plan had when the round began, and over them those of the round and of the stage."""
    settings = stage["settings"]
    values = {**settings["overrides"], **stage.get("overrides", {})}
    if stage["stage"] == "generate":
        # The file names exactly the prompts that are wanted.
        values |= {"generate.pool": "", "generate.limit": 0}
        own = stage["output"] == "completions"
        values["generate.samples_per_prompt"] = (
            round.project.completions_per_task if own else generation.COMPARED_COMPLETIONS
        )
    if stage["stage"] == "evaluate" and not has_prompts(round.project, pool="eval"):
        values["evaluate.pool"] = ""
    return runs.resolve_config(values, preset=settings["preset"])


def with_settings(recipe, plan):
    """The stages with the plan's settings as they are now: a change of the plan is for the next round."""
    return [{**stage, "settings": plans.settings_of(plan)} for stage in recipe]


def stage_inputs(round, stage, position):
    """({input name: digest}, {input name: (uri, digest), or None for no prompts}) of a stage."""
    digests, files = {}, {}
    for name, artifact in stage["inputs"].items():
        if artifact == "base":
            digests[name] = round.base_policy.digest
        elif artifact == "sft":
            digests[name] = reference(round).digest
        elif artifact == "snapshot":
            digests[name] = round.snapshot.digest
        elif artifact in FILE_ARTIFACTS:
            files[name] = generation.prompt_file(round, artifact)
        else:
            digests[name] = output_run(round, artifact, before=position).output_digest
    return digests, files


def reference(round):
    row = checkpoints.sft_policy(round.project)
    if row is None:
        raise runs.RunError(_("There is no SFT policy, which is the KL reference; add one as a checkpoint first."))
    return row


def output_run(round, artifact, *, before=None):
    """The run of this round whose output has this name; None where it has none (or RunError with `before`)."""
    positions = [index for index, stage in enumerate(round.recipe[:before]) if stage.get("output") == artifact]
    run = Run.objects.filter(round=round, position__in=positions, state=RunState.SUCCEEDED).last()
    if run is None and before is not None:
        raise runs.RunError(_("No stage before this one makes %(artifact)r.") % {"artifact": artifact})
    return run


def output_checkpoint(round, artifact):
    run = output_run(round, artifact)
    return Checkpoint.objects.filter(project=round.project, digest=run.output_digest).first() if run else None


def evaluation(round):
    """The numbers of the evaluation's report, {} where the recipe has none."""
    run = output_run(round, "report")
    if run is None:
        return {}
    report = json.loads((runs.data_path(run.output_uri) / REPORT).read_text(encoding="utf-8"))
    return {name: value for name, value in report.items() if isinstance(value, (int, float))}


def figures(round):
    """What a page shows of a round that has ended."""
    result = evaluation(round)
    if reward_model := output_run(round, "reward_model"):
        result["validation_accuracy"] = reward_model.summary.get("validation_accuracy")
    if policy := output_checkpoint(round, "policy"):
        result["policy"] = policy.digest
    result["base_policy"] = round.base_policy.digest
    return result


# Whether a project is ready


def training_rankings(project):
    """Rankings that a snapshot for training takes."""
    return Ranking.objects.trainable().filter(task__project=project)


def refuse_too_few(project):
    """Raises RoundError unless there are enough comparisons to learn from."""
    found = some_comparisons(project)
    if found < LEAST_COMPARISONS:
        raise RoundError(too_few(found))


def some_comparisons(project):
    """How many comparisons there are to learn from, counted until they are enough; ties and answers alone give none."""
    found = 0
    for order in training_rankings(project).values_list("order", flat=True).iterator():
        found += count_comparisons(order)
        if found >= LEAST_COMPARISONS:
            break
    return found


def too_few(found):
    sentence = _(
        "There are %(found)d comparisons to learn from and a round needs at least %(least)d; "
        "rank some more answers first."
    )
    return sentence % {"found": found, "least": LEAST_COMPARISONS}


def uses(recipe, artifact):
    return any(artifact in stage["inputs"].values() for stage in recipe)


def has_prompts(project, **filters):
    return Prompt.objects.filter(prompt_set__project=project, prompt_set__active=True, **filters).exists()


def next_number(project, recipe):
    """Rounds that train count from 1; a first one that only generates is round 0."""
    last = project.rounds.aggregate(last=Max("number"))["last"]
    if last is None:
        return 1 if uses(recipe, "snapshot") else 0
    return last + 1
