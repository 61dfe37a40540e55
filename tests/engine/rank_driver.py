"""One rank of several: runs the stages that its argument names, [[stage, config.json, run directory]], one by one."""

import importlib
import json
import sys
from pathlib import Path

from training.engine import config, distributed

if __name__ == "__main__":
    for stage, source, run_dir in json.loads(sys.argv[1]):
        importlib.import_module(f"training.engine.{stage}").train(config.load(source), Path(run_dir))
    distributed.leave()
