"""The demo project: the story world as a Plumbline project, with a small model to teach and answers to rank at once.

Loading is idempotent: what is there already stays as it is.
"""

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from django.conf import settings
from django.db import transaction
from django.db.models import Count
from django.utils.translation import gettext as _

from annotation import assignment, completions, projects, prompts
from annotation.messages import can_be_ranked
from annotation.models import POOLS, Membership, Project, Prompt, Purpose, Role, Slot, SlotState
from plumbline import accounts
from plumbline.demo import world
from plumbline.demo.starter import FIRST_COMPLETIONS, STARTER
from training import checkpoints, plans
from training.engine import rundir
from training.models import CheckpointRole

SLUG = "stories"
PRESET = "demo"
PROMPT_SET = "stories"
MOST_TASKS_AT_ONCE = 2000

# A line break in a guideline is one that people see, so each paragraph is one line.
GUIDELINE = """\
**Prefer stories with a kind ending.**

The little model tells stories on request, and has no taste of its own yet. You give it one: of the four stories, put \
the one that ends most kindly first. Someone is helped, forgiven, comforted or brought home; a story that ends sadly, \
or just stops, goes last.

- Sad words along the way count against a story.
- Two stories that end equally kindly: put them side by side, as a tie.
- Whether the story has the right animal or makes much sense does not matter here. That can be taught too, but it \
takes many more rankings.

About **60 rankings**, ten minutes or so, are enough for the model to learn this. Then whoever leads the project \
starts a round under *Overview*, and new stories come to be ranked.
"""


class DemoError(Exception):
    """The demo cannot be loaded. The message is one sentence or two for people."""


def load(*, tasks=None, say=lambda text: None):
    """The demo project, made if missing. tasks: have at least so many judgments waiting, generating what lacks."""
    check_starter()
    admin = accounts.ensure_admin()
    project = ensure_project(admin)
    ensure_prompts(project, admin)
    ensure_policy(project, admin)
    if not project.tasks.exists():
        queue_completions(project, read_completions(STARTER.with_name(FIRST_COMPLETIONS)), reason="demo")
    if tasks is not None:
        replenish(project, tasks=tasks, say=say)
    return project


def check_starter():
    needed = (STARTER / "config.json", STARTER.with_name(FIRST_COMPLETIONS))
    missing = [path.name for path in needed if not path.is_file()]
    if missing:
        raise DemoError(
            _("The demo's small model is not complete: %(folder)s lacks %(names)s. Install Plumbline again.")
            % {"folder": STARTER.parent, "names": ", ".join(missing)}
        )


@transaction.atomic
def ensure_project(admin):
    project = Project.objects.filter(slug=SLUG).first()
    if project is None:
        project = projects.create_project(
            name=_("Stories"),
            slug=SLUG,
            description=_("A small model tells stories on request. Teach it a style: about 60 rankings are enough."),
            created_by=admin,
        )
        projects.set_guideline(project, text=GUIDELINE, created_by=admin)
        plans.change_plan(project, actor=admin, preset=PRESET)
    if not Membership.objects.filter(project=project, user=admin).exists():
        projects.add_member(project, admin, role=Role.ADMIN)
    return project


def ensure_prompts(project, admin):
    """One prompt set that holds all four pools."""
    if project.prompt_sets.filter(name=PROMPT_SET).exists():
        return
    lines = [
        json.dumps({"messages": [{"role": "user", "content": spec.text}], "pool": spec.pool, "group": spec.group})
        for pool in POOLS
        for spec in world.prompts(pool)
    ]
    file = io.BytesIO("\n".join(lines).encode())
    prompts.import_prompts(
        project, name=PROMPT_SET, file=file, file_name="stories.jsonl", created_by=admin, format="jsonl"
    )


def ensure_policy(project, admin):
    if checkpoints.promoted(project) is None:
        checkpoints.promote(add_starter(project, actor=admin), actor=admin)


def add_starter(project, *, actor=None):
    """The starter as a checkpoint of this project. Raises DemoError, checkpoints.CheckpointError."""
    check_starter()
    with tempfile.TemporaryDirectory(dir=ensured(settings.PLUMBLINE_DATA_DIR / "uploads")) as folder:
        copied = shutil.copytree(STARTER, Path(folder) / "starter")
        return checkpoints.add_checkpoint(project, role=CheckpointRole.SFT, path=copied, name=_("Starter"), actor=actor)


def read_completions(path):
    with path.open(encoding="utf-8") as file:
        return [row for row in map(json.loads, file) if can_be_ranked(row["message"])]


@transaction.atomic
def queue_completions(project, rows, *, reason):
    """Stores completions and queues one task for each prompt's group of them; how many tasks that made."""
    size = project.completions_per_task
    queued = 0
    by_prompt = {}
    for completion in completions.add_completions(project, rows=rows):
        by_prompt.setdefault(completion.prompt_id, []).append(completion)
    for group in by_prompt.values():
        for start in range(0, len(group) - size + 1, size):
            chosen = group[start : start + size]
            task = assignment.queue_task(
                project, prompt=chosen[0].prompt, completions=chosen, purpose=Purpose.TRAIN, reason=reason
            )
            queued += task is not None
    return queued


def waiting(project):
    """Judgments that nobody has claimed yet."""
    return Slot.objects.filter(project=project, state=SlotState.OPEN).count()


def replenish(project, *, tasks, say=lambda text: None):
    """Has the promoted policy answer prompts until at least `tasks` judgments wait."""
    policy = checkpoints.promoted(project)
    if policy is None:
        raise DemoError(_("No policy is promoted in %(project)s, so nothing can write answers.") % {"project": project})
    while (lacking := tasks - waiting(project)) > 0:
        count = min(-(-lacking // project.overlap), MOST_TASKS_AT_ONCE)
        say(_("The policy is answering %(n)d prompts …") % {"n": count})
        rows = generate(project, policy, prompts=least_asked(project, count), seed=project.tasks.count())
        if not queue_completions(project, rows, reason="demo"):
            # All answers to a prompt are the same, which leaves nothing to rank.
            raise DemoError(_("The policy answers each prompt in one way only, so there is nothing to rank."))


def least_asked(project, count):
    found = list(
        Prompt.objects.filter(prompt_set__project=project, prompt_set__active=True, pool="reward")
        .annotate(asked=Count("tasks"))
        .order_by("asked", "position")[:count]
    )
    if not found:
        raise DemoError(
            _("%(project)s has no prompts in the pool “reward”; import some first.") % {"project": project.name}
        )
    return found


def generate(project, policy, *, prompts, seed):
    """The policy's completions of these prompts, made by the engine in a process of its own."""
    folder = Path(tempfile.mkdtemp(prefix=f"demo-{project.slug}-", dir=ensured(settings.PLUMBLINE_DATA_DIR / "runs")))
    prompt_file = folder / "prompts.jsonl"
    with prompt_file.open("w", encoding="utf-8") as file:
        for prompt in prompts:
            row = {"digest": prompt.digest, "messages": prompt.messages, "pool": prompt.pool, "group": prompt.group}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    run_dir = folder / "run"
    command = [sys.executable, "-m", "training.engine", "generate"]
    command += ["--config", plans.plan_for(project).preset, "--run-dir", str(run_dir)]
    command += [
        f"inputs.policy={settings.PLUMBLINE_DATA_DIR / policy.uri}",
        f"inputs.prompts={prompt_file}",
        f"generate.samples_per_prompt={project.completions_per_task}",
        f"run.seed={seed}",
    ]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode != rundir.EXIT_OK:
        said = ended.stderr.strip().splitlines() or [_("it said nothing")]
        raise DemoError(_("The engine could not write answers: %(said)s") % {"said": said[-1]})
    return read_completions(run_dir / rundir.OUTPUT / "completions.jsonl")


def ensured(folder):
    folder.mkdir(parents=True, exist_ok=True)
    return folder
