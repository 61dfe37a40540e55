"""docs/settings.md, made from the engine's configuration: `python -m tests.engine.settings_page` writes it again."""

import dataclasses
from pathlib import Path

from training.engine import sections

PAGE = Path(__file__).resolve().parents[2] / "docs" / "settings.md"
HEAD = """\
# Settings of the engine

Every setting of a stage, as it is written in a TOML file, on the command line (`ppo.kl_coef=0.1`), and on a project's
settings page. An unknown key or a value outside its range is refused. This page is made from
`training/engine/sections.py` by `python -m tests.engine.settings_page`; a test compares the two.
"""
SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def page():
    """The whole page."""
    return HEAD + "".join(section(field.name, field.type) for field in dataclasses.fields(sections.Config))


def section(name, cls):
    lines = [f"\n## {name}\n\n{cls.__doc__.strip()}\n\n| setting | default | allowed | meaning |\n|---|---|---|---|\n"]
    return "".join(lines + list(rows(cls, f"{name}.")))


def rows(cls, prefix):
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(field.type):
            yield from rows(field.type, f"{prefix}{field.name}.")
            continue
        meaning = field.metadata["doc"].replace("|", "\\|")
        yield f"| `{prefix}{field.name}` | {shown(field.default)} | {allowed(field.metadata)} | {meaning} |\n"


def allowed(rules):
    if rules["choices"]:
        return ", ".join(rules["choices"])
    return ", ".join(f"{sign} {rules[rule]:g}" for rule, sign in SIGNS.items() if rules[rule] is not None)


def shown(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value in ("", ()) else str(value)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
