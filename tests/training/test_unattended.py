"""Whether the dashboard says so where no worker takes a round up."""

from datetime import timedelta

import pytest
from django.utils import timezone

from training import runs, standing
from training.models import Round, Run

pytestmark = pytest.mark.django_db


@pytest.fixture
def waiting(project, make_run):
    """A round under way whose run waits."""
    round = Round.objects.create(project=project, number=1, state="running")
    make_run(round=round)
    return round


def unattended_after(round, **later):
    """Whether nobody seems to take it up, so much later."""
    return standing.is_unattended(round, now=timezone.now() + timedelta(**later))


def test_it_gives_a_worker_time_to_come(waiting):
    assert not unattended_after(waiting, seconds=5)
    assert unattended_after(waiting, seconds=60)


def test_it_says_so_on_the_dashboard(waiting, project, prompts):
    long_ago = timezone.now() - timedelta(minutes=5)
    Run.objects.update(created_at=long_ago)
    sentence = standing.compose(standing.read_figures(project)).sentence
    assert "no worker takes it up" in sentence
    assert "plumbline doctor" in sentence


def test_it_does_not_blame_a_worker_that_is_busy_with_another_run(waiting, make_run):
    other = make_run()
    runs.claim(other.id, owner="busy")
    assert not unattended_after(waiting, seconds=10)
    Run.objects.filter(id=other.id).update(lease_expires_at=timezone.now() + timedelta(minutes=2))
    assert not unattended_after(waiting, seconds=60)


def test_it_says_nothing_of_a_round_that_works_or_has_ended(waiting):
    Run.objects.update(state="running")
    assert not unattended_after(waiting, hours=1)
    Round.objects.update(state="cancelled")
    waiting.refresh_from_db()
    assert not unattended_after(waiting, hours=1)


def test_it_waits_longer_for_the_snapshot(project):
    round = Round.objects.create(project=project, number=1)
    assert not unattended_after(round, seconds=60)
    assert unattended_after(round, minutes=5)


def test_it_notices_that_nobody_starts_the_next_stage(waiting):
    Run.objects.update(state="succeeded", finished_at=timezone.now())
    assert not unattended_after(waiting, seconds=60)
    assert unattended_after(waiting, minutes=5)
