"""The Django side of training never imports torch: a web process and a Celery worker must do without."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys, django
django.setup()
import training.api, training.tasks, training.urls, training.admin
import training.management.commands.reconcile
print(sorted({"torch", "safetensors", "tokenizers"} & set(sys.modules)))
"""


def test_it_does_without_torch_in_the_web(tmp_path):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}", "PLUMBLINE_DATA_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
