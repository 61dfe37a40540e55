"""Reads docs/metrics.md, so that tests can compare it with what the stages write."""

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"


def documented(stage):
    """Names in the tables under a stage's heading."""
    text = PAGE.read_text(encoding="utf-8")
    section = text.partition(f"\n## {stage}\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`[^|]+`) \|", section, flags=re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([a-z0-9_]+)`", cell)}
