"""fault_driver.py prepare | queue SEED MESSAGES: what the fault tests do in the worker's own database."""

import os
import sys
from pathlib import Path

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "plumbline.settings")
django.setup()

from annotation.models import Project  # noqa: E402
from tests.training.fake_engine import write_checkpoint  # noqa: E402
from training import checkpoints, runs  # noqa: E402

data_dir = Path(os.environ["PLUMBLINE_DATA_DIR"])

if sys.argv[1] == "prepare":
    project = Project.objects.create(slug="stories", name="Stories")
    write_checkpoint(data_dir / "made")
    checkpoints.promote(checkpoints.add_checkpoint(project, role="sft", path=data_dir / "made", name="start"))
    (data_dir / "prompts.jsonl").touch()
else:
    project = Project.objects.get()
    run, _created = runs.create_run(
        project,
        stage="generate",
        config={"run.seed": int(sys.argv[2])},
        inputs={"policy": checkpoints.promoted(project).digest},
        files={"prompts": ("prompts.jsonl", "0" * 64)},
    )
    for _message in range(int(sys.argv[3]) - 1):
        runs.wake_worker(run.id)
    print(run.id.hex)
