"""Projects, who belongs to them, invitations and guidelines: every write to these tables."""

import hashlib
import secrets
from datetime import timedelta

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Max
from django.utils import timezone
from django.utils.text import slugify
from django.utils.translation import gettext as _

from annotation import messages, starting_points
from annotation.audit import record_event
from annotation.models import BOUNDS, Guideline, Invitation, Membership, Project, Role
from annotation.ranking_form import check_ranking_form

INVITATION_LIFETIME = timedelta(days=14)
RESERVED_SLUGS = ("new", "api", "admin", "account", "static")
SETTINGS = (
    "description",
    "completions_per_task",
    "overlap",
    "lease_seconds",
    "daily_goal",
    "qualification_tasks",
    "qualification_percent",
    "ranking_form",
    "gold_share",
    "repeat_share",
    "weigh_annotators",
)
RANKS = {Role.ANNOTATOR: 1, Role.REVIEWER: 2, Role.ADMIN: 3}  # who may do what the ones below may
MAX_GUIDELINE = 200_000  # characters


def free_slug(name):
    base = slugify(name)[:56] or "project"
    taken = set(Project.objects.filter(slug__startswith=base).values_list("slug", flat=True)) | set(RESERVED_SLUGS)
    return next(slug for slug in (base, *(f"{base}-{number}" for number in range(2, 10_000))) if slug not in taken)


def bounds(name):
    """The bounds of one of the project's numbers, as fields of forms and of the API take them."""
    low, high = BOUNDS[name]
    return {"min_value": low, "max_value": high}


def check_settings(settings):
    unknown = sorted(set(settings) - {*SETTINGS, "name"})
    if unknown:
        raise ValidationError({unknown[0]: _("is not a setting of a project.")})
    if "ranking_form" in settings:
        check_ranking_form(settings["ranking_form"])


def check_project(project):
    """All of the row's rules, also those that only some databases would see at once."""
    for name, (low, high) in BOUNDS.items():
        value = getattr(project, name)
        is_share = isinstance(high, float)
        is_number = isinstance(value, (int, float) if is_share else int) and not isinstance(value, bool)
        if not is_number or not low <= value <= high:
            sentence = (
                _("must be a share from %(low)s to %(high)s.")
                if is_share
                else _("must be a whole number from %(low)s to %(high)s.")
            )
            raise ValidationError({name: sentence % {"low": low, "high": high}})
    project.full_clean()
    if project.slug in RESERVED_SLUGS:
        raise ValidationError({"slug": _("is reserved; choose another.")})


@transaction.atomic
def create_project(*, name, slug=None, created_by, **settings):
    """A new project whose maker is its admin. Raises ValidationError."""
    check_settings(settings)
    name = (name or "").strip() if isinstance(name, str) or name is None else name
    project = Project(name=name, slug=slug or free_slug(str(name)), **settings)
    check_project(project)
    project.save()
    record_event(project, actor=created_by, action="project.created", subject=project.slug)
    if created_by is not None:
        add_member(project, created_by, role=Role.ADMIN, actor=created_by)
    return project


@transaction.atomic
def begin_project(point, *, name, description="", created_by):
    """A new project with a StartingPoint's settings and guideline. Raises ValidationError."""
    settings = starting_points.settings_of(point)
    project = create_project(name=name, description=description, created_by=created_by, **settings)
    if point.guideline:
        set_guideline(project, text=str(point.guideline), created_by=created_by)
    return project


@transaction.atomic
def change_project(project, *, actor, **settings):
    """Raises ValidationError. The short name stays: links and tokens carry it."""
    check_settings(settings)
    project = Project.objects.select_for_update().get(pk=project.pk)
    before = {name: getattr(project, name) for name in settings}
    for name, value in settings.items():
        setattr(project, name, value)
    check_project(project)
    project.save(update_fields=list(settings) or None)
    changed = {name: value for name, value in settings.items() if before[name] != value}
    if changed:
        record_event(project, actor=actor, action="project.changed", subject=project.slug, detail=changed)
    return project


@transaction.atomic
def set_archived(project, *, archived, actor):
    """Puts a project that is over away, or takes it up again; what people hold may still be handed in."""
    changed = Project.objects.filter(pk=project.pk, archived_at__isnull=archived).update(
        archived_at=timezone.now() if archived else None
    )
    if changed:
        action = "project.archived" if archived else "project.reopened"
        record_event(project, actor=actor, action=action, subject=project.slug)


def membership(project, user):
    """This person's active membership, or None. A superuser who is no member may do what an admin may."""
    if not user.is_authenticated:
        return None
    found = Membership.objects.filter(project=project, user=user, active=True).first()
    if found is None and user.is_superuser:
        return Membership(project=project, user=user, role=Role.ADMIN, pseudonym=fallback_pseudonym(project, user.pk))
    return found


def fallback_pseudonym(project, user_id):
    """The name in files of someone who ranked without a membership row (a superuser)."""
    return "person-" + hashlib.sha256(f"{project.pk}:{user_id}".encode()).hexdigest()[:8]


def new_pseudonym(project):
    while True:
        pseudonym = "person-" + secrets.token_hex(4)
        if not Membership.objects.filter(project=project, pseudonym=pseudonym).exists():
            return pseudonym


@transaction.atomic
def add_member(project, user, *, role=None, simulated=False, actor=None):
    """The membership, a new one with this role (None: annotator). One that exists is taken up again.

    A member keeps the role they have unless one is named, and nobody is ever changed from or to simulated. Raises
    ValidationError, also when the project would be left without an admin.
    """
    check_role(role)
    found, created = Membership.objects.get_or_create(
        project=project,
        user=user,
        defaults={"role": role or Role.ANNOTATOR, "simulated": simulated, "pseudonym": new_pseudonym(project)},
    )
    if created:
        detail = {"role": found.role}
        record_event(project, actor=actor, action="member.added", subject=user.get_username(), detail=detail)
        return found
    if found.simulated != simulated:
        raise ValidationError({"simulated": _("cannot change: rankings already carry it. Use another account.")})
    # Whoever was removed comes back as a newcomer, not with the rights that they once had.
    role = role or (found.role if found.active else Role.ANNOTATOR)
    if (found.role, found.active) == (role, True):
        return found
    return change_member(found, actor=actor, role=role, active=True)


def check_role(role):
    if role is not None and role not in Role.values:
        raise ValidationError({"role": _("must be one of: %(roles)s.") % {"roles": ", ".join(Role.values)}})


@transaction.atomic
def change_member(member, *, actor, role=None, active=None):
    """Raises ValidationError when the project would be left without an admin."""
    # The project's row is locked first, so that two admins cannot remove each other at once.
    Project.objects.select_for_update().get(pk=member.project_id)
    member = Membership.objects.select_for_update().select_related("user", "project").get(pk=member.pk)
    check_role(role)
    stays_admin = (role or member.role) == Role.ADMIN and active is not False
    loses_admin = member.active and member.role == Role.ADMIN and not stays_admin
    others = Membership.objects.filter(project=member.project, role=Role.ADMIN, active=True).exclude(pk=member.pk)
    if loses_admin and not others.exists():
        raise ValidationError(
            {"role": _("%(name)s is the only admin. Make someone else admin first.") % {"name": member.user}}
        )
    member.role = role or member.role
    member.active = member.active if active is None else active
    member.save(update_fields=["role", "active"])
    record_event(
        member.project,
        actor=actor,
        action="member.changed",
        subject=member.user.get_username(),
        detail={"role": member.role, "active": member.active},
    )
    return member


@transaction.atomic
def set_consent(project, user, *, given):
    """Notes that this person agrees, or no longer agrees, to texts that may be disturbing. The membership.

    A superuser who agrees becomes a member, as what they agreed to must be on record.
    """
    found = Membership.objects.filter(project=project, user=user, active=True).first()
    if found is None:
        found = add_member(project, user, role=Role.ADMIN, actor=user)
    if given != (found.consented_at is not None):
        found.consented_at = timezone.now() if given else None
        Membership.objects.filter(pk=found.pk).update(consented_at=found.consented_at)
        record_event(project, actor=user, action="consent.given" if given else "consent.withdrawn")
    return found


def digest_invitation(token):
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


@transaction.atomic
def create_invitation(project, *, role=Role.ANNOTATOR, created_by, note=""):
    """(Invitation, token). The token is the link's secret, told once and never stored."""
    token = secrets.token_urlsafe(32)
    invitation = Invitation(
        project=project,
        role=role,
        digest=digest_invitation(token),
        note=note,
        created_by=created_by,
        expires_at=timezone.now() + INVITATION_LIFETIME,
    )
    invitation.full_clean()
    invitation.save()
    record_event(project, actor=created_by, action="invitation.created", subject=note, detail={"role": role})
    return invitation, token


def find_invitation(token):
    """The open invitation with this token, or None."""
    found = Invitation.objects.select_related("project").filter(digest=digest_invitation(token)).first()
    return found if found and found.is_open(timezone.now()) else None


@transaction.atomic
def accept_invitation(token, *, user):
    """The membership, once a link; a higher role that someone already has is kept.

    Raises ValidationError when the link is unknown, used, revoked or expired.
    """
    invitation = find_invitation(token)
    taken = invitation and Invitation.objects.filter(pk=invitation.pk, accepted_at=None, revoked_at=None).update(
        accepted_at=timezone.now(), accepted_by=user
    )
    if not taken:
        raise ValidationError(_("This invitation has been used or has expired. Ask for a new one."))
    held = Membership.objects.filter(project=invitation.project, user=user, active=True).first()
    if held and RANKS[held.role] >= RANKS[invitation.role]:
        return held
    simulated = Membership.objects.filter(project=invitation.project, user=user, simulated=True).exists()
    return add_member(invitation.project, user, role=invitation.role, simulated=simulated, actor=user)


def revoke_invitation(invitation, *, actor):
    """Whether it was open until now."""
    with transaction.atomic():
        revoked = Invitation.objects.filter(pk=invitation.pk, accepted_at=None, revoked_at=None).update(
            revoked_at=timezone.now()
        )
        if revoked:
            record_event(invitation.project, actor=actor, action="invitation.revoked", subject=invitation.note)
    return revoked == 1


def current_guideline(project):
    return Guideline.objects.filter(project=project).order_by("-version").first()


def guideline_version(project):
    """0 where there is none."""
    return Guideline.objects.filter(project=project).aggregate(newest=Max("version"))["newest"] or 0


def set_guideline(project, *, text, created_by, requalify=False):
    """The guideline with this text: the current one if nothing changed, else a new version.

    requalify: whoever passed the project's test before takes it again.
    """
    text = (text or "").replace("\r\n", "\n").strip()
    try:
        messages.check_text(text, field="text", max_length=MAX_GUIDELINE)
    except messages.MessageError as error:
        raise ValidationError({"text": error.message}) from None
    if not text:
        raise ValidationError({"text": _("Write what annotators should look for.")})
    with transaction.atomic():
        Project.objects.select_for_update().get(pk=project.pk)
        current = current_guideline(project)
        if current and current.text == text:
            return current
        version = guideline_version(project) + 1
        guideline = Guideline.objects.create(
            project=project, version=version, text=text, requalify=requalify, created_by=created_by
        )
        record_event(project, actor=created_by, action="guideline.changed", subject=f"v{version}")
    return guideline
