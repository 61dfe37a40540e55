"""Celery tasks: an id in, one call out. A message is only a wake-up call, so a doubled or lost one does no harm."""

import functools
import os
import socket
import uuid

from celery import shared_task

from plumbline.celery import shutdown_requested
from training import launcher, rounds


@shared_task(name="training.tasks.run_training", acks_late=False)
def run_training(run_id):
    """Sees one attempt at a run through. Acknowledged early: late, a run longer than the visibility timeout doubles."""
    launcher.supervise(run_id, owner=owner_name(), should_stop=functools.partial(must_stop, os.getppid()))


@shared_task(name="training.tasks.advance_round", acks_late=True)
def advance_round(round_id):
    rounds.advance(round_id)


def must_stop(parent):
    """Whether this worker is going away: asked to, or its main process was killed and left us behind."""
    return shutdown_requested() or os.getppid() != parent


def owner_name():
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
