"""Where a project stands and what to do next: reads for the dashboard, and the sentence they add up to.

`read_figures` asks the database; `compose` is a pure function of the figures.
"""

from dataclasses import dataclass, replace
from datetime import timedelta

from django.db.models import Count, Q
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from annotation import quality
from annotation.models import Prompt, Slot, SlotState, Source
from training import checkpoints, metrics, rounds
from training.models import OWNED_RUN_STATES, Checkpoint, Round, RoundState, Run, RunState

UNCLAIMED = timedelta(seconds=30)  # workers look every few seconds
BETWEEN_STAGES = timedelta(minutes=2)  # freezing judgments and queueing answers take seconds
ENOUGH_RANKINGS = 60  # a style is learned from about so many


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A share of pairs with its 95% interval, all in [0, 1]."""

    value: float
    low: float | None = None
    high: float | None = None
    pairs: int = 0

    @classmethod
    def read(cls, figures, key):
        """A share from a quality report, or None where there was nothing to count."""
        if not figures or not figures.get("pairs") or figures.get(key) is None:
            return None
        return cls(value=figures[key], low=figures.get("low"), high=figures.get("high"), pairs=figures["pairs"])


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundFigures:
    """What one round trained, and how it did. Shares are None where nothing was measured."""

    number: int
    learned: int = 0  # rankings in its snapshot
    simulated: int = 0  # of these
    accuracy: float | None = None  # of the reward model, on rankings that it did not see
    kl: float | None = None  # nats per completion, to the SFT policy
    word: Share | None = None  # pairs won against the base by the reward model's word
    blind: Share | None = None  # by people's blind judgments
    blind_simulated: Share | None = None
    policy: Checkpoint | None = None

    @property
    def policy_waits(self):
        """Whether its policy is whole, and nobody has promoted or withdrawn it."""
        return self.policy is not None and self.policy.state in ("candidate", "verified")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Everything that the dashboard's first screen says."""

    archived: bool = False
    prompts: int = 0
    policy: Checkpoint | None = None  # the promoted one
    waiting: int = 0  # judgments that nobody has claimed yet
    people: int = 0  # rankings to train on
    simulated: int = 0
    comparisons: int = rounds.LEAST_COMPARISONS  # that these give, counted as far as a round needs
    new_people: int = 0  # of these, since the last round's snapshot
    new_simulated: int = 0
    since: int = 0  # number of that round; 0: there is none yet
    rounds: int = 0  # number of the newest round
    newest: Round | None = None
    trains: bool = True  # false: the newest round only has answers written
    newest_stage: str = ""  # in words, of the newest round
    unattended: bool = False  # the newest round waits for a worker, and there seems to be none
    last: RoundFigures | None = None  # of the newest round that succeeded
    accuracy: float | None = None  # of the newest reward model, also of a round that is not over
    accuracy_round: int = 0
    agreement: Share | None = None  # people with each other
    agreement_simulated: Share | None = None

    @property
    def rankings(self):
        return self.people + self.simulated

    @property
    def new(self):
        return self.new_people + self.new_simulated


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One figure of the loop strip. state: todo, current, done or failed."""

    name: str
    figure: str
    note: str
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The sentence at the top, the one thing to do, and whether a round may start."""

    sentence: str
    action: str  # import, policy, answers, rank, wait, retry or start
    start_number: int
    start_refused: str = ""  # why a round cannot start now; empty: it can


def percent(share):
    return f"{100 * share:.0f}%"


def bounds(share):
    """The 95% interval of a Share, such as "66–76%", or an empty string."""
    return "" if share.low is None or share.high is None else f"{100 * share.low:.0f}–{percent(share.high)}"


def interval(share):
    """A Share with its interval, such as "71% (66–76%)"."""
    return f"{percent(share.value)} ({bounds(share)})" if bounds(share) else percent(share.value)


# Reads


def read_figures(project):
    rows = list(project.rounds.select_related("project", "snapshot", "base_policy").prefetch_related("runs")[:20])
    newest = rows[0] if rows else None
    done = next((row for row in rows if row.snapshot and row.state == RoundState.SUCCEEDED), None)
    since = done.snapshot.created_at if done else None
    new = Q(created_at__gt=since) if since else Q()
    simulated = Q(source=Source.SIMULATED)
    counts = rounds.training_rankings(project).aggregate(
        people=Count("id", filter=~simulated),
        simulated=Count("id", filter=simulated),
        new_people=Count("id", filter=~simulated & new),
        new_simulated=Count("id", filter=simulated & new),
    )
    return Figures(
        archived=project.archived_at is not None,
        prompts=Prompt.objects.filter(prompt_set__project=project, prompt_set__active=True).count(),
        policy=checkpoints.promoted(project),
        waiting=Slot.objects.filter(project=project, state=SlotState.OPEN).count(),
        since=done.number if done else 0,
        rounds=newest.number if newest else 0,
        newest=newest,
        trains=trains(newest),
        newest_stage=stage_reached(newest),
        comparisons=rounds.some_comparisons(project),
        unattended=is_unattended(newest, now=timezone.now()),
        last=read_round(done) if done else None,
        **newest_accuracy(rows),
        agreement=Share.read(quality.pairwise_agreement(project, simulated=False), "agreement"),
        agreement_simulated=Share.read(quality.pairwise_agreement(project, simulated=True), "agreement")
        if counts["simulated"]
        else None,
        **counts,
    )


def read_round(round):
    """The figures of one round; its runs may be prefetched."""
    runs = {run.stage: run for run in round.runs.all()}
    reward_model, ppo = runs.get("reward_model"), runs.get("ppo")
    made = Checkpoint.objects.filter(run=ppo).first() if ppo else None
    blind = blind_simulated = None
    if made and round.base_policy:
        sides = {"new_digest": made.digest, "old_digest": round.base_policy.digest}
        blind = Share.read(quality.win_rate(round.project, simulated=False, **sides), "win_rate")
        blind_simulated = Share.read(quality.win_rate(round.project, simulated=True, **sides), "win_rate")
    result, counts = round.result, round.snapshot.counts if round.snapshot else {}
    return RoundFigures(
        number=round.number,
        learned=counts.get("rankings", 0),
        simulated=counts.get("rankings_simulated", 0),
        accuracy=reward_model.summary.get("validation_accuracy") if reward_model else None,
        kl=result.get("kl_per_completion"),
        word=Share(
            value=result["win_rate"],
            low=result.get("win_rate_low"),
            high=result.get("win_rate_high"),
            pairs=int(result.get("prompts") or 0),
        )
        if result.get("win_rate") is not None
        else None,
        blind=blind,
        blind_simulated=blind_simulated,
        policy=made,
    )


STAGE_WORDS = {
    "snapshot": gettext_lazy("snapshot"),
    "sft": gettext_lazy("supervised fine-tuning"),
    "reward_model": gettext_lazy("reward model"),
    "ppo": gettext_lazy("PPO"),
    "evaluate": gettext_lazy("evaluation"),
    "generate": gettext_lazy("new answers"),
    "pretrain": gettext_lazy("pretraining"),
    "tokenizer": gettext_lazy("tokenizer"),
}


def stage_words(stage):
    return str(STAGE_WORDS.get(stage, stage))


def newest_accuracy(rows):
    """The newest reward model's accuracy, of rounds with the newest first and their runs prefetched."""
    for row in rows:
        for run in row.runs.all():
            if run.stage == "reward_model" and run.summary.get("validation_accuracy") is not None:
                return {"accuracy": run.summary["validation_accuracy"], "accuracy_round": row.number}
    return {}


def trains(round):
    return round is None or any(stage.get("stage") in ("reward_model", "ppo") for stage in round.recipe)


def stage_reached(round):
    """The stage that a round is at, or stopped at, in words; empty before its first run."""
    runs = sorted(round.runs.all(), key=lambda run: run.position) if round else []
    return stage_words(runs[-1].stage) if runs else ""


def is_unattended(round, *, now):
    """Whether an active round waits although nothing is before it in the queue: then no worker takes it up."""
    if round is None or not round.is_active():
        return False
    run = max(round.runs.all(), key=lambda run: run.position, default=None)
    if run is None:
        return now - round.created_at > BETWEEN_STAGES
    if run.is_ended():
        return now - (run.finished_at or now) > BETWEEN_STAGES
    if run.state != RunState.QUEUED:
        return False
    if now - max(run.created_at, run.advanced_at or run.created_at) < UNCLAIMED:
        return False
    return not Run.objects.filter(state__in=OWNED_RUN_STATES, lease_expires_at__gt=now).exists()


# Words


def compose(figures):
    """Where the project stands and what to do next."""
    refused = refusal(figures)
    number = figures.rounds + 1 if figures.rounds else 1
    sentence, action = headline(figures, refused)
    return Standing(sentence=sentence, action=action, start_number=number, start_refused=refused)


def refusal(figures):
    """Why a round cannot start now, in a sentence; empty where it can."""
    if figures.newest and figures.newest.is_active():
        if not figures.trains:
            return _("The model is writing answers.")
        return _("Round %(n)d is under way.") % {"n": figures.newest.number}
    if figures.archived:
        return _("The project is archived.")
    if not figures.prompts:
        return _("There are no prompts yet.")
    if figures.policy is None:
        return _("There is no model to train yet.")
    if figures.comparisons < rounds.LEAST_COMPARISONS:
        return rounds.too_few(figures.comparisons)
    return ""


def headline(figures, refused):
    newest = figures.newest
    if newest and newest.is_active():
        return under_way(figures), "wait"
    if not figures.prompts:
        return _("Nothing here yet. Import prompts to begin: the questions that the model will answer."), "import"
    if figures.policy is None:
        return _("%(prompts)s are in. Next, add the model that will answer them.") % {
            "prompts": prompts_words(figures.prompts)
        }, "policy"
    if newest and newest.state == RoundState.FAILED:
        return stopped(figures), "retry"
    if not figures.rankings and not figures.waiting:
        return _("Prompts and a model are here. Next, have the model write its first answers to rank."), "answers"
    if refused or (not figures.since and figures.rankings < ENOUGH_RANKINGS):
        return early(figures), "rank"
    parts = [new_rankings(figures), *agreements(figures)]
    if not figures.new:
        return " ".join([*parts, _("Rank some answers of the new model before the next round.")]), "rank"
    parts.append(_("Ready for round %(n)d.") % {"n": figures.rounds + 1})
    return " ".join(parts), "start"


def under_way(figures):
    newest, stage = figures.newest, figures.newest_stage
    if figures.unattended:
        return _(
            "The round waits, but no worker takes it up. See that `plumbline up` runs on the server; "
            "`plumbline doctor` says what is missing."
        )
    if not figures.trains:
        return _("The model is writing answers. They can be ranked as soon as it is done.")
    if not stage or newest.state == RoundState.PREPARING:
        return _("Round %(n)d is starting. Rankings made from now on count for the next one.") % {"n": newest.number}
    return _("Round %(n)d is under way: %(stage)s. Rankings made meanwhile count for the next round.") % {
        "n": newest.number,
        "stage": stage,
    }


def stopped(figures):
    newest, stage = figures.newest, figures.newest_stage
    if not figures.trains:
        return _("Writing answers stopped. %(reason)s") % {"reason": newest.message}
    if not stage:
        return _("Round %(n)d stopped. %(reason)s") % {"n": newest.number, "reason": newest.message}
    return _("Round %(n)d stopped at %(stage)s. %(reason)s") % {
        "n": newest.number,
        "stage": stage,
        "reason": newest.message,
    }


def early(figures):
    if not figures.rankings:
        return ngettext(
            "%(n)d task is waiting to be ranked. About %(enough)d rankings teach the model a style.",
            "%(n)d tasks are waiting to be ranked. About %(enough)d rankings teach the model a style.",
            figures.waiting,
        ) % {"n": figures.waiting, "enough": ENOUGH_RANKINGS}
    return _("%(rankings)s so far; about %(enough)d teach the model a style. %(waiting)s") % {
        "rankings": rankings_words(figures.people, figures.simulated),
        "enough": ENOUGH_RANKINGS,
        "waiting": _("No task is waiting.")
        if not figures.waiting
        else ngettext("%(n)d more task is waiting.", "%(n)d more tasks are waiting.", figures.waiting)
        % {"n": figures.waiting},
    }


def new_rankings(figures):
    if not figures.since:
        return _("%(rankings)s so far.") % {"rankings": rankings_words(figures.people, figures.simulated)}
    if not figures.new:
        return _("No new rankings since round %(round)d.") % {"round": figures.since}
    return _("%(rankings)s since round %(round)d.") % {
        "rankings": rankings_words(figures.new_people, figures.new_simulated, new=True),
        "round": figures.since,
    }


def agreements(figures):
    """How often the reward model agrees with held-out rankings, and annotators with each other: no or one sentence."""
    parts = []
    if figures.last and figures.last.accuracy is not None:
        # Its held-out rankings are whatever it was trained on; "people" would be a claim where some were simulated.
        whom = _("people") if not figures.simulated else _("unseen rankings")
        parts.append(
            _("Reward model agrees with %(whom)s %(share)s") % {"whom": whom, "share": percent(figures.last.accuracy)}
        )
    if figures.agreement:
        share = percent(figures.agreement.value)
        parts.append(
            _("people with each other %(share)s") % {"share": share}
            if parts
            else _("People agree with each other %(share)s") % {"share": share}
        )
    elif figures.agreement_simulated:
        share = percent(figures.agreement_simulated.value)
        parts.append(
            _("simulated annotators with each other %(share)s") % {"share": share}
            if parts
            else _("Simulated annotators agree with each other %(share)s") % {"share": share}
        )
    return [", ".join(parts) + "."] if parts else []


def prompts_words(count):
    return ngettext("%(n)s prompt", "%(n)s prompts", count) % {"n": f"{count:,}"}


def rankings_words(people, simulated, *, new=False):
    """ "312 rankings", "300 simulated rankings", "312 rankings (300 of them simulated)"."""
    count = people + simulated
    if simulated and not people:
        if new:
            text = ngettext("%(n)s new simulated ranking", "%(n)s new simulated rankings", count)
        else:
            text = ngettext("%(n)s simulated ranking", "%(n)s simulated rankings", count)
        return text % {"n": f"{count:,}"}
    if new:
        text = ngettext("%(n)s new ranking", "%(n)s new rankings", count) % {"n": f"{count:,}"}
    else:
        text = ngettext("%(n)s ranking", "%(n)s rankings", count) % {"n": f"{count:,}"}
    return text + (_(" (%(n)s of them simulated)") % {"n": f"{simulated:,}"} if simulated else "")


# The loop strip


def loop_steps(figures):
    """Prompts, rankings, reward model, policy, comparison: each with its one figure."""
    return [
        prompts_step(figures),
        rankings_step(figures),
        reward_model_step(figures),
        policy_step(figures),
        comparison_step(figures),
    ]


def running_stage(figures):
    newest = figures.newest
    return figures.newest_stage if newest and newest.is_active() and figures.trains else ""


def failed_stage(figures):
    return figures.newest_stage if figures.newest and figures.newest.state == RoundState.FAILED else ""


def stage_state(figures, stages, done):
    words = {stage_words(stage) for stage in stages}
    if running_stage(figures) in words:
        return "current"
    if failed_stage(figures) in words:
        return "failed"
    return "done" if done else "todo"


def prompts_step(figures):
    waiting = _("no task waiting")
    if figures.waiting:
        waiting = ngettext("%(n)s task waiting", "%(n)s tasks waiting", figures.waiting)
        waiting %= {"n": f"{figures.waiting:,}"}
    return Step(
        name=_("Prompts"),
        figure=f"{figures.prompts:,}" if figures.prompts else "–",
        note=waiting if figures.prompts else _("none imported yet"),
        state="done" if figures.prompts else "current",
    )


def rankings_step(figures):
    if figures.simulated and figures.people:
        note = _("%(n)s of them simulated") % {"n": f"{figures.simulated:,}"}
    elif figures.simulated:
        note = _("all simulated")
    elif figures.since:
        note = _("%(n)s new since round %(round)d") % {"n": f"{figures.new:,}", "round": figures.since}
    else:
        note = _("by people") if figures.people else _("none yet")
    active = figures.newest is not None and figures.newest.is_active()
    collecting = bool(figures.waiting) and not active and (not figures.rankings or figures.new < ENOUGH_RANKINGS)
    return Step(
        name=_("Rankings"),
        figure=f"{figures.rankings:,}" if figures.rankings else "–",
        note=note,
        state="current" if collecting else "done" if figures.rankings else "todo",
    )


def reward_model_step(figures):
    accuracy = figures.accuracy
    return Step(
        name=_("Reward model"),
        figure=percent(accuracy) if accuracy is not None else "–",
        note=_("right on unseen pairs, round %(n)d") % {"n": figures.accuracy_round}
        if accuracy is not None
        else _("learns from the rankings"),
        state=stage_state(figures, ["reward_model"], accuracy is not None),
    )


def policy_step(figures):
    last = figures.last
    note = _("the promoted model") if figures.policy else _("no model yet")
    if last and last.policy and figures.policy and last.policy.id == figures.policy.id and last.kl is not None:
        note = _("promoted; KL %(kl).1f nats") % {"kl": last.kl}
    elif last and last.policy_waits:
        note = _("%(name)s waits to be promoted") % {"name": last.policy.name}
    return Step(
        name=_("Policy"),
        figure=figures.policy.name if figures.policy else "–",
        note=note,
        state=stage_state(figures, ["ppo"], figures.policy is not None),
    )


def comparison_step(figures):
    last = figures.last
    figure, note = "–", _("new model against old, judged blind")
    if last and last.blind:
        figure = percent(last.blind.value)
        note = _("of %(pairs)d blind pairs won (%(bounds)s)") % {
            "pairs": last.blind.pairs,
            "bounds": bounds(last.blind),
        }
    elif last and last.blind_simulated:
        figure = percent(last.blind_simulated.value)
        note = _("of %(pairs)d blind pairs won, simulated judges") % {"pairs": last.blind_simulated.pairs}
    elif last and last.word:
        figure = percent(last.word.value)
        note = _("won by the reward model's word; nobody has judged blind yet")
    return Step(
        name=_("Comparison"),
        figure=figure,
        note=note,
        state=stage_state(figures, ["evaluate", "generate"], bool(last and (last.blind or last.blind_simulated))),
    )


# Stages of a round


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage of a round as its pages show it. state: todo, current, done, failed or cancelled."""

    name: str
    state: str
    words: str  # the state in words
    run: Run | None = None
    seconds: float | None = None  # since its start, or from start to end
    seconds_left: float | None = None

    @property
    def counts(self):
        """Whether a progress bar can be drawn."""
        return self.run is not None and self.state == "current" and self.run.total_steps > 0

    @property
    def is_finishing(self):
        """All steps are done, and what follows them is not: scores are scaled, weights written."""
        return self.counts and self.run.step >= self.run.total_steps


# Two stages of a round write answers.
OUTPUT_WORDS = {"base_completions": gettext_lazy("the old model's answers, to compare")}
STAGE_STATES = {
    RunState.SUCCEEDED: "done",
    RunState.FAILED: "failed",
    RunState.STOPPED_BY_GUARD: "failed",
    RunState.CANCELLED: "cancelled",
}


def stages_of(round, *, now):
    """The stages of a round's recipe, those to come included."""
    if round is None:
        return []
    by_position = {run.position: run for run in round.runs.all()}
    found = []
    for position, entry in enumerate(round.recipe):
        run = by_position.get(position)
        name = str(OUTPUT_WORDS.get(entry.get("output")) or stage_words(entry.get("stage", "")))
        if run:
            found.append(replace(stage_of(run, now=now), name=name))
        else:
            found.append(Stage(name=name, state="todo", words=_("to come") if round.is_active() else _("not reached")))
    return found


def stage_of(run, *, now):
    end = run.finished_at or now
    return Stage(
        name=stage_words(run.stage),
        state=STAGE_STATES.get(run.state, "current"),
        words=str(run.get_state_display()),
        run=run,
        seconds=(end - run.started_at).total_seconds() if run.started_at else None,
        seconds_left=seconds_left(run),
    )


def seconds_left(run):
    """From the pace so far; None before there is one, and once it is over."""
    if run.is_ended() or run.total_steps <= run.step:
        return None
    pace = metrics.seconds_per_step(run)
    return None if pace is None else pace * (run.total_steps - run.step)
