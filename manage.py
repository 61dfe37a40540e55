#!/usr/bin/env python
"""Runs a management command from a checkout: `python manage.py COMMAND`, the same as `plumbline COMMAND`."""

import sys
from pathlib import Path

# First, so that `plumbline` is found; `platform` itself has no __init__.py and stays Python's.
sys.path.insert(0, str(Path(__file__).resolve().parent / "platform"))

from plumbline.__main__ import main

if __name__ == "__main__":
    main()
