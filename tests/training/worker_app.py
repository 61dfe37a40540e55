"""The Celery application as it is, but for the engine, which only pretends, and a lease that runs out sooner."""

import os
import sys
from pathlib import Path

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "plumbline.settings")
django.setup()

from plumbline.celery import app  # noqa: E402
from training import launcher, runs  # noqa: E402

launcher.ENGINE_COMMAND = (sys.executable, str(Path(__file__).with_name("fake_engine.py")), "choose_by_seed")
runs.LEASE_SECONDS = 4

__all__ = ["app"]
