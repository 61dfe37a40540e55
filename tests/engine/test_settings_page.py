"""docs/settings.md and docs/engine.md name what the engine takes."""

import re

import pytest

from tests.engine.metrics_page import PAGE as METRICS
from tests.engine.settings_page import PAGE, page
from training.engine import __main__ as command
from training.engine import config, rundir


def test_it_documents_every_setting_as_it_is():
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m tests.engine.settings_page"


def test_it_says_what_every_setting_means():
    for key, _, doc in config.fields():
        assert doc.endswith("."), key
        assert f"| `{key}` |" in page()


def test_it_documents_every_stage_and_option(capsys):
    text = (METRICS.parent / "engine.md").read_text(encoding="utf-8")
    with pytest.raises(SystemExit):
        command.parse(["--help"])
    options = set(re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out)) - {"--help"}
    assert {"--config", "--run-dir", "--lifeline"} <= options
    for option in options:
        assert option in text, option
    for stage in rundir.STAGES:
        assert f"| `{stage}` |" in text
