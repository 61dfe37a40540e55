"""Tables of the annotation side, in the order of the flow.

Columns, constraints and questions about one row; every write stands in a noun module (`prompts.py`, `rankings.py`, …).
Ids that leave the server are random (uuid4): a sequence or a time in them would betray the newer policy.
"""

import uuid

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

POOLS = ("sft", "reward", "ppo", "eval")


class Project(models.Model):
    """A set of people, prompts and a policy that is being improved."""

    slug = models.SlugField(_("short name"), max_length=64, unique=True)
    name = models.CharField(_("name"), max_length=200)
    description = models.TextField(_("description"), blank=True)
    completions_per_task = models.PositiveSmallIntegerField(_("answers per task"), default=4)
    overlap = models.PositiveSmallIntegerField(_("people per task"), default=1)
    lease_seconds = models.PositiveIntegerField(_("seconds a task stays reserved"), default=900)
    daily_goal = models.PositiveIntegerField(_("tasks a person is asked to do a day"), default=60)
    # What the pages ask beside the order, where it departs from the defaults: ranking_form.py names the keys.
    ranking_form = models.JSONField(_("questions beside the order"), default=dict, blank=True)
    gold_share = models.FloatField(
        _("share of hidden checks"), default=0.1
    )  # of tasks with a known answer, where any is
    repeat_share = models.FloatField(_("share of repeats"), default=0.05)  # of one's own tasks asked again
    qualification_tasks = models.PositiveSmallIntegerField(_("test tasks before real work"), default=0)  # 0: no test
    qualification_percent = models.PositiveSmallIntegerField(_("pairs to agree on in the test"), default=70)
    weigh_annotators = models.BooleanField(_("weigh rankings by reliability"), default=True)
    created_at = models.DateTimeField(auto_now_add=True)
    archived_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(
                condition=Q(completions_per_task__gte=2, completions_per_task__lte=9), name="project_k_from_2_to_9"
            ),
            models.CheckConstraint(condition=Q(overlap__gte=1), name="project_overlap_at_least_1"),
            models.CheckConstraint(condition=Q(lease_seconds__gte=10), name="project_lease_at_least_10_seconds"),
            models.CheckConstraint(condition=Q(qualification_percent__lte=100), name="project_qualification_percent"),
            # At most half: what is hidden among the real tasks must not crowd them out.
            models.CheckConstraint(condition=Q(gold_share__gte=0, gold_share__lte=0.5), name="project_gold_share"),
            models.CheckConstraint(
                condition=Q(repeat_share__gte=0, repeat_share__lte=0.5), name="project_repeat_share"
            ),
        ]

    def __str__(self):
        return self.name


class Role(models.TextChoices):
    ANNOTATOR = "annotator", _("annotator")
    REVIEWER = "reviewer", _("reviewer")
    ADMIN = "admin", _("admin")


class Membership(models.Model):
    """What one person may do in one project, and the name by which files know this person."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=16, choices=Role.choices, default=Role.ANNOTATOR)
    pseudonym = models.CharField(max_length=32)
    simulated = models.BooleanField(default=False)  # its rankings are marked, and never mixed with people's
    active = models.BooleanField(default=True)
    quarantined_at = models.DateTimeField(null=True, blank=True)  # since then, new rankings are held back
    consented_at = models.DateTimeField(null=True, blank=True)  # to texts that may be disturbing
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["user__username"]
        constraints = [
            models.UniqueConstraint(fields=["project", "user"], name="membership_once_a_person"),
            models.UniqueConstraint(fields=["project", "pseudonym"], name="membership_pseudonym_once"),
        ]

    def __str__(self):
        return f"{self.user} ({self.role})"


class Invitation(models.Model):
    """A link by which one person joins; only its sha256 is kept."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="invitations")
    role = models.CharField(max_length=16, choices=Role.choices, default=Role.ANNOTATOR)
    digest = models.CharField(max_length=64, unique=True)
    note = models.CharField(max_length=200, blank=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()
    accepted_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    accepted_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]

    def __str__(self):
        return f"{self.project} ({self.role})"

    def is_open(self, now):
        return self.accepted_at is None and self.revoked_at is None and now < self.expires_at


class Guideline(models.Model):
    """What annotators are asked to look for. A change is a new version."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="guidelines")
    version = models.PositiveIntegerField()
    text = models.TextField()
    requalify = models.BooleanField(default=False)  # whoever passed the test before this version takes it again
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["project", "-version"]
        constraints = [models.UniqueConstraint(fields=["project", "version"], name="guideline_version_once")]

    def __str__(self):
        return f"{self.project} v{self.version}"


class Qualification(models.Model):
    """How one person did in a project's test."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="qualifications")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    guideline_version = models.PositiveIntegerField()
    tasks = models.PositiveSmallIntegerField()
    agreement = models.FloatField()  # share of pairs ordered as the known answers order them, in [0, 1]
    passed = models.BooleanField()
    created_at = models.DateTimeField(auto_now_add=True)
    void_at = models.DateTimeField(null=True, blank=True)  # the lead lets this person try again

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["project", "user", "guideline_version"],
                condition=Q(void_at=None),
                name="qualification_once_a_version",
            )
        ]

    @property
    def percent(self):
        return round(100 * self.agreement)


class PromptSet(models.Model):
    """One imported file of prompts. The same name imported again is the next version."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="prompt_sets")
    name = models.CharField(max_length=200)
    version = models.PositiveIntegerField(default=1)
    file_name = models.CharField(max_length=255, blank=True)
    file_sha256 = models.CharField(max_length=64)
    counts = models.JSONField(default=dict)  # {"prompts", "dropped": {reason: n}, "pools": {pool: n}}
    active = models.BooleanField(default=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name", "-version"]
        constraints = [
            models.UniqueConstraint(fields=["project", "name", "version"], name="prompt_set_version_once"),
            models.UniqueConstraint(fields=["project", "file_sha256"], name="prompt_set_file_once"),
        ]

    def __str__(self):
        return f"{self.name} v{self.version}"


class Pool(models.TextChoices):
    """What a prompt may be used for, fixed when it is imported."""

    SFT = "sft", _("demonstrations")
    REWARD = "reward", _("reward model")
    PPO = "ppo", _("PPO")
    EVAL = "eval", _("evaluation")


class Prompt(models.Model):
    """A list of chat messages that a completion answers."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    prompt_set = models.ForeignKey(PromptSet, on_delete=models.CASCADE, related_name="prompts")
    digest = models.CharField(max_length=64, db_index=True)  # sha256 of the messages' canonical JSON
    messages = models.JSONField()  # [{"role", "content": str or [typed parts]}]
    pool = models.CharField(max_length=16, choices=Pool.choices)
    group = models.CharField(max_length=200)  # prompts of a group never stand in two pools or on both sides of a split
    position = models.PositiveIntegerField()  # row in the file, from 1

    class Meta:
        ordering = ["prompt_set", "position"]
        constraints = [models.UniqueConstraint(fields=["prompt_set", "digest"], name="prompt_once_a_set")]
        indexes = [
            models.Index(fields=["prompt_set", "pool"], name="prompt_by_pool"),
            models.Index(fields=["group"], name="prompt_by_group"),
        ]

    def __str__(self):
        return self.digest[:12]


class ProposalState(models.TextChoices):
    WAITING = "waiting", _("waiting")
    ACCEPTED = "accepted", _("in use")
    DECLINED = "declined", _("not used")


class PromptProposal(models.Model):
    """A prompt that a person wrote, before and after an admin's decision. Accepted ones are copied to a prompt set."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="prompt_proposals")
    author = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    messages = models.JSONField()
    state = models.CharField(max_length=8, choices=ProposalState.choices, default=ProposalState.WAITING)
    created_at = models.DateTimeField(auto_now_add=True)
    decided_at = models.DateTimeField(null=True, blank=True)
    decided_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")

    class Meta:
        ordering = ["created_at"]
        indexes = [models.Index(fields=["project", "state"], name="prompt_proposal_by_state")]

    def __str__(self):
        return str(self.id)


class Completion(models.Model):
    """An assistant message that answers a prompt, and who or what made it. Names its checkpoint by value."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    prompt = models.ForeignKey(Prompt, on_delete=models.CASCADE, related_name="completions")
    message = models.JSONField()  # {"role": "assistant", "content": str or [typed parts]}
    text_sha256 = models.CharField(max_length=64)  # of the parts' text: identical answers are one card
    finish_reason = models.CharField(max_length=32, default="stop")
    prompt_tokens = models.PositiveIntegerField(null=True)
    completion_tokens = models.PositiveIntegerField(null=True)
    token_ids = models.JSONField(null=True)  # as sampled: encoding the text again need not give the same
    # {"kind": checkpoint | endpoint | person | import, "digest", "model", "endpoint", "template_digest", "engine",
    #  "dtype", "sampling", "seed"}
    generator = models.JSONField()
    policy_digest = models.CharField(max_length=64, blank=True, db_index=True)  # generator.digest, for questions
    external_id = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        indexes = [models.Index(fields=["prompt", "policy_digest"], name="completion_by_policy")]

    def __str__(self):
        return str(self.id)


class Purpose(models.TextChoices):
    """Why a task is asked. Judgments of purpose eval or gold never enter a training snapshot."""

    TRAIN = "train", _("training")
    EVAL = "eval", _("blind comparison")
    GOLD = "gold", _("known answer")
    PRACTICE = "practice", _("practice")
    REPEAT = "repeat", _("repeat")
    ADJUDICATION = "adjudication", _("adjudication")


# What may train. Judgments of purpose eval and gold measure, practice is not meant, and a repeat would count double.
TRAINING_PURPOSES = (Purpose.TRAIN, Purpose.ADJUDICATION)
MEASURING_PURPOSES = (Purpose.EVAL, Purpose.GOLD)


class Task(models.Model):
    """One prompt and the completions to be ranked."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="tasks")
    prompt = models.ForeignKey(Prompt, on_delete=models.CASCADE, related_name="tasks")
    completions = models.ManyToManyField(Completion, through="TaskCompletion", related_name="tasks")
    purpose = models.CharField(max_length=16, choices=Purpose.choices, default=Purpose.TRAIN)
    priority = models.IntegerField(default=0)  # higher comes first
    overlap = models.PositiveSmallIntegerField(default=1)
    reason = models.CharField(max_length=200, blank=True)  # why it was queued, e.g. "round 2"
    propensity = models.FloatField(default=1.0)  # chance with which the sampler of tasks chose it
    batch = models.CharField(max_length=64, blank=True, db_index=True)  # names what queued it, e.g. a round, by value
    # The task whose answers this one asks about again: of a repeat, an adjudication, a known answer made from a task.
    source = models.ForeignKey("self", on_delete=models.CASCADE, null=True, blank=True, related_name="asked_again")
    created_at = models.DateTimeField(auto_now_add=True)
    closed_at = models.DateTimeField(null=True, blank=True)  # withdrawn from the queue

    class Meta:
        ordering = ["-priority", "created_at"]
        constraints = [
            models.CheckConstraint(condition=Q(overlap__gte=1), name="task_overlap_at_least_1"),
            models.CheckConstraint(
                condition=Q(propensity__gt=0, propensity__lte=1), name="task_propensity_is_a_probability"
            ),
        ]
        indexes = [models.Index(fields=["project", "purpose"], name="task_by_purpose")]

    def __str__(self):
        return str(self.id)


class TaskCompletion(models.Model):
    """A completion's place in a task. Completions of one card are identical and shown once."""

    task = models.ForeignKey(Task, on_delete=models.CASCADE, related_name="entries")
    completion = models.ForeignKey(Completion, on_delete=models.CASCADE, related_name="entries")
    position = models.PositiveSmallIntegerField()
    card = models.PositiveSmallIntegerField()

    class Meta:
        ordering = ["task", "position"]
        constraints = [
            models.UniqueConstraint(fields=["task", "completion"], name="task_completion_once"),
            models.UniqueConstraint(fields=["task", "position"], name="task_position_once"),
        ]


class KnownAnswer(models.Model):
    """What the order of a gold task should be. It never reaches an annotator's page and never trains."""

    task = models.OneToOneField(Task, on_delete=models.CASCADE, related_name="known_answer")
    order = models.JSONField()  # [[completion id, …], …], best first, as in a ranking
    explanation = models.TextField(blank=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)


class SlotState(models.TextChoices):
    OPEN = "open", _("open")
    LEASED = "leased", _("reserved")
    DONE = "done", _("done")
    CLOSED = "closed", _("closed")


class Slot(models.Model):
    """One of the `overlap` judgments that a task asks for. Claimed by one filtered UPDATE."""

    task = models.ForeignKey(Task, on_delete=models.CASCADE, related_name="slots")
    number = models.PositiveSmallIntegerField()
    state = models.CharField(max_length=8, choices=SlotState.choices, default=SlotState.OPEN)
    # Copies of the task's columns, so that the queue is one index and no join.
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="+")
    priority = models.IntegerField(default=0)
    shuffle = models.PositiveIntegerField()  # random: neighbours in a file are not neighbours in the queue

    class Meta:
        ordering = ["task", "number"]
        constraints = [models.UniqueConstraint(fields=["task", "number"], name="slot_number_once")]
        indexes = [
            models.Index(F("project"), F("priority").desc(), F("shuffle"), name="slot_queue", condition=Q(state="open"))
        ]


class AssignmentState(models.TextChoices):
    LEASED = "leased", _("reserved")
    SUBMITTED = "submitted", _("submitted")
    EXPIRED = "expired", _("expired")
    SKIPPED = "skipped", _("skipped")
    SURPLUS = "surplus", _("kept, not counted")
    BARRED = "barred", _("never asked: a text of their own")


class Assignment(models.Model):
    """One person's claim on one slot, and the order in which the cards were shown."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    slot = models.ForeignKey(Slot, on_delete=models.CASCADE, related_name="assignments")
    task = models.ForeignKey(Task, on_delete=models.CASCADE, related_name="assignments")
    annotator = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="assignments")
    state = models.CharField(max_length=16, choices=AssignmentState.choices, default=AssignmentState.LEASED)
    is_repeat = models.BooleanField(default=False)
    lease_expires_at = models.DateTimeField()
    presented_order = models.JSONField()  # completion ids, one a card, as the page shows them
    skip_reason = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["task", "annotator"], condition=Q(is_repeat=False), name="assignment_once_a_person"
            ),
            models.UniqueConstraint(
                fields=["slot"], condition=Q(state__in=["leased", "submitted"]), name="assignment_one_counted_a_slot"
            ),
        ]
        indexes = [
            models.Index(fields=["annotator", "state"], name="assignment_by_annotator"),
            models.Index(fields=["state", "lease_expires_at"], name="assignment_by_expiry"),
        ]

    def is_expired(self, now):
        return self.state == AssignmentState.LEASED and self.lease_expires_at <= now


class Withdrawal(models.Model):
    """One person's judgments of a period, taken out of use together. Nothing is deleted: it can be reversed."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="withdrawals")
    annotator = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    since = models.DateTimeField(null=True, blank=True)  # none: from the beginning
    until = models.DateTimeField(null=True, blank=True)  # not included; none: up to now
    reason = models.CharField(max_length=500, blank=True)
    count = models.PositiveIntegerField()  # rankings that were in use or held back until then
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    reversed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    reversed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]


class Source(models.TextChoices):
    ANNOTATOR = "annotator", _("person")
    SIMULATED = "simulated", _("simulated")
    IMPORT = "import", _("imported")
    CHAT = "chat", _("chat")
    AI = "ai", _("AI")


class RankingQuerySet(models.QuerySet):
    def in_use(self):
        """The newest versions that count: within the overlap, neither withdrawn nor held back."""
        return self.filter(is_current=True, is_counted=True, is_held=False, withdrawn_at=None)

    def without_settled(self):
        """Less those of tasks that a reviewer has settled: such a task speaks by the reviewer's ranking alone."""
        settled = Ranking.objects.in_use().filter(
            task__purpose=Purpose.ADJUDICATION, task__source=models.OuterRef("task_id")
        )
        return self.exclude(models.Exists(settled))

    def without_measuring(self):
        """Less those of what measures, whatever their own purpose: prompts of the eval pool, copies of such tasks."""
        return self.exclude(task__prompt__pool=Pool.EVAL).exclude(task__source__purpose__in=MEASURING_PURPOSES)

    def trainable(self):
        """What a training snapshot takes."""
        return self.in_use().filter(task__purpose__in=TRAINING_PURPOSES).without_measuring().without_settled()


class Ranking(models.Model):
    """One version of one judgment: tie groups of completion ids, best first. Rows are only ever added."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    task = models.ForeignKey(Task, on_delete=models.CASCADE, related_name="rankings")
    assignment = models.ForeignKey(Assignment, on_delete=models.CASCADE, null=True, blank=True, related_name="rankings")
    annotator = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="rankings"
    )
    source = models.CharField(max_length=16, choices=Source.choices, default=Source.ANNOTATOR)
    client_id = models.CharField(max_length=64)  # made by the client: a repeated submit is one row
    body_sha256 = models.CharField(max_length=64)
    version = models.PositiveIntegerField(default=1)
    is_current = models.BooleanField(default=True)  # the newest version; the only column that an edit changes
    is_counted = models.BooleanField(default=True)  # false: surplus, kept but not one of the overlap
    is_held = models.BooleanField(default=False)  # made under quarantine: kept, not in use until a reviewer decides
    order = models.JSONField()  # [[completion id, …], …], identical completions included
    unranked = models.JSONField(default=list)
    none_acceptable = models.BooleanField(default=False)
    strength = models.PositiveSmallIntegerField(null=True, blank=True)
    ratings = models.JSONField(default=dict)  # {completion id: {"overall": 1..7, axis: 1..7}}
    flags = models.JSONField(default=dict)  # {completion id: [flag, …]}
    rationale = models.TextField(blank=True)
    note = models.TextField(blank=True)  # written before the answers were shown
    presented_order = models.JSONField()
    seconds = models.FloatField(null=True, blank=True)
    guideline_version = models.PositiveIntegerField(default=0)  # 0: the project had none
    prompt_set_version = models.PositiveIntegerField()
    weight = models.FloatField(default=1.0)
    withdrawn_at = models.DateTimeField(null=True, blank=True)
    withdrawal = models.ForeignKey(
        Withdrawal, on_delete=models.SET_NULL, null=True, blank=True, related_name="rankings"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    objects = RankingQuerySet.as_manager()

    class Meta:
        ordering = ["created_at"]
        constraints = [
            models.UniqueConstraint(fields=["annotator", "client_id"], name="ranking_client_id_once"),
            models.UniqueConstraint(fields=["assignment", "version"], name="ranking_version_once"),
            models.UniqueConstraint(
                fields=["assignment"], condition=Q(is_current=True), name="ranking_one_current_version"
            ),
            models.CheckConstraint(condition=Q(weight__gte=0), name="ranking_weight_not_negative"),
        ]
        indexes = [models.Index(fields=["created_at"], name="ranking_by_time")]


class Demonstration(models.Model):
    """A completion that a person wrote, for supervised fine-tuning."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="demonstrations")
    prompt = models.ForeignKey(Prompt, on_delete=models.CASCADE, related_name="demonstrations")
    author = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="demonstrations"
    )
    message = models.JSONField()
    ranking = models.ForeignKey(Ranking, on_delete=models.SET_NULL, null=True, blank=True, related_name="rewrites")
    source = models.CharField(max_length=16, choices=Source.choices, default=Source.ANNOTATOR)
    created_at = models.DateTimeField(auto_now_add=True)
    withdrawn_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["created_at"]


class Question(models.Model):
    """What somebody who ranks asks the project's lead about one task, and the answer, which both see."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="questions")
    assignment = models.ForeignKey(Assignment, on_delete=models.CASCADE, related_name="questions")
    asked_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="questions")
    text = models.TextField()
    asked_at = models.DateTimeField(auto_now_add=True)
    answer = models.TextField(blank=True)
    answered_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    answered_at = models.DateTimeField(null=True)
    answer_seen_at = models.DateTimeField(null=True)  # by the one who asked

    class Meta:
        ordering = ["-asked_at"]
        indexes = [models.Index(fields=["project", "answered_at"], name="question_by_answer")]


class Snapshot(models.Model):
    """A frozen data set: a directory of JSONL files with a manifest."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="snapshots")
    number = models.PositiveIntegerField()
    uri = models.CharField(max_length=1000)  # relative to the data directory, or with a scheme
    digest = models.CharField(max_length=64)  # sha256 of the manifest's canonical JSON
    counts = models.JSONField(default=dict)
    filters = models.JSONField(default=dict)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["project", "-number"]
        constraints = [models.UniqueConstraint(fields=["project", "number"], name="snapshot_number_once")]

    def __str__(self):
        return f"{self.project} snapshot {self.number}"


class SuspicionState(models.TextChoices):
    OPEN = "open", _("to be decided")
    CLEARED = "cleared", _("cleared")
    CONFIRMED = "confirmed", _("confirmed")


class Suspicion(models.Model):
    """Why a member is under quarantine, and what a reviewer decided."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    membership = models.ForeignKey(Membership, on_delete=models.CASCADE, related_name="suspicions")
    # [{"check", "value", "usual", "tasks", "partner": user id or null}], as suspicion.Reading; [] if a reviewer's own
    reasons = models.JSONField(default=list)
    note = models.CharField(max_length=500, blank=True)
    state = models.CharField(max_length=16, choices=SuspicionState.choices, default=SuspicionState.OPEN)
    created_at = models.DateTimeField(auto_now_add=True)
    decided_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    decided_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["membership"], condition=Q(state="open"), name="suspicion_one_open_a_member"
            )
        ]


class QualityReport(models.Model):
    """What was last computed about a project's judgments: people's, or simulated ones. A cache that may be deleted."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="quality_reports")
    simulated = models.BooleanField()
    fingerprint = models.CharField(max_length=100)  # of the judgments: when it changes, the report is out of date
    figures = models.JSONField()  # as reports.compute describes
    seconds = models.FloatField()  # what computing it took
    computed_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "simulated"], name="quality_report_once")]


class AuditEvent(models.Model):
    """Who did what, and when."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, null=True, related_name="audit_events")
    actor = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    action = models.CharField(max_length=64)  # noun.verb, e.g. checkpoint.promoted
    subject = models.CharField(max_length=200, blank=True)
    detail = models.JSONField(default=dict)
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)

    class Meta:
        ordering = ["-created_at"]
