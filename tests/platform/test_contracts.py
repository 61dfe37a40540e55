"""The arrows that never are: who may import whom.

import-linter follows chains of imports through whole packages (its contracts stand in pyproject.toml); the rules here
are about single files by their place, so that a new file is covered from its first day.
"""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def lint_imports(config):
    program = Path(sys.executable).with_name("lint-imports")
    environ = {**os.environ, "PYTHONPATH": f"{ROOT / 'platform'}{os.pathsep}{ROOT}"}
    command = [program, "--no-cache", "--config", str(config)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environ, check=False)


def test_it_keeps_every_import_contract():
    result = lint_imports(ROOT / "pyproject.toml")
    assert result.returncode == 0, result.stdout + result.stderr


def test_it_notices_a_broken_contract(tmp_path):
    config = tmp_path / "contracts.ini"
    config.write_text(
        "[importlinter]\nroot_package = plumbline\ninclude_external_packages = True\n"
        "[importlinter:contract:1]\nname = no celery\ntype = forbidden\n"
        "source_modules =\n  plumbline.celery\nforbidden_modules =\n  celery\n"
    )
    result = lint_imports(config)
    assert result.returncode == 1
    assert "no celery BROKEN" in result.stdout


def test_it_loads_no_heavy_library_with_the_web_process(tmp_path):
    """Each would cost every web process 5 to 200 MB and the start its time; what needs one imports it when it does."""
    heavy = {"torch", "numpy", "scipy", "pandas", "pyarrow", "celery.app.base", "httpx"}
    script = f"import sys, plumbline.wsgi; print(sorted({heavy} & set(sys.modules)))"
    environ = {**os.environ, "PLUMBLINE_DATA_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environ, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_it_loads_nothing_of_ours_below_the_lifeline():
    """One stays beside every child: it must be small, and work where settings cannot be read."""
    script = "import sys; before = set(sys.modules); import runpy; runpy.run_path(sys.argv[1], run_name='lifeline'); "
    script += "print(sorted(m for m in set(sys.modules) - before if m.split('.')[0] in ('django', 'plumbline')))"
    path = ROOT / "platform" / "plumbline" / "lifeline.py"
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


ENGINE = ROOT / "training" / "engine"
STAGES = {"pretrain", "sft", "reward_model", "ppo", "generate", "evaluate"}
PURE = {"losses", "rollout", "transformer", "heads", "sampling", "optim"}
NOT_NOUNS = {"views", "api", "serializers", "forms", "urls", "admin", "apps", "rendering", "permissions"}


def imports(path):
    """Every module that the file names in an import, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def reaches(name, packages):
    return any(name == package or name.startswith(package + ".") for package in packages)


def paths(pattern, keep):
    found = [path for path in sorted(ROOT.glob(pattern)) if keep(path)]
    return pytest.mark.parametrize("path", found, ids=lambda path: str(path.relative_to(ROOT)))


@paths("training/engine/**/*.py", lambda path: True)
def test_it_keeps_the_engine_to_itself(path):
    ours = [name for name in imports(path) if reaches(name, ["training"]) and name != "training"]
    foreign = [name for name in ours if not reaches(name, ["training.engine"])]
    assert foreign == []


@paths("training/**/*.py", lambda path: ENGINE not in path.parents)
def test_it_lets_the_django_side_read_only_config_and_rundir_of_the_engine(path):
    for name in imports(path):
        assert not reaches(name, ["torch", "safetensors", "tokenizers"]), name
        if name not in ("training.engine", "training") and reaches(name, ["training.engine"]):
            assert reaches(name, ["training.engine.config", "training.engine.rundir"]), name


@paths("training/engine/*.py", lambda path: path.stem in STAGES)
def test_it_lets_stages_meet_only_through_checkpoints(path):
    others = [f"training.engine.{stage}" for stage in STAGES - {path.stem}]
    assert [name for name in imports(path) if reaches(name, others)] == []


@paths("training/engine/*.py", lambda path: path.stem in PURE)
def test_it_keeps_files_and_environment_out_of_the_pure_parts(path):
    banned = ["os", "pathlib", "argparse", "io", "json", "tempfile", "shutil"]
    assert [name for name in imports(path) if reaches(name, banned)] == []


@paths(
    "*/*.py", lambda path: path.parent.name in ("annotation", "training") and path.stem.split("_")[-1] not in NOT_NOUNS
)
def test_it_keeps_requests_and_templates_out_of_the_noun_modules(path):
    banned = ["django.http", "django.shortcuts", "django.template", "rest_framework"]
    banned += [f"{path.parent.name}.{name}" for name in ("views", "serializers", "api", "forms")]
    assert [name for name in imports(path) if reaches(name, banned)] == []
