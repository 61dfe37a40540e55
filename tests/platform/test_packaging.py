"""`platform/` is a source root; Python's own `platform` module must stay reachable in every way the product runs."""

import os
import platform
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROBE = "import platform, plumbline; print(platform.system(), plumbline.__file__)"


def run(*command, cwd=ROOT, **environ):
    result = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, env={**os.environ, **environ}, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_it_keeps_the_source_root_from_becoming_a_package():
    assert not (ROOT / "platform" / "__init__.py").exists()


def test_it_leaves_platform_to_python_under_pytest():
    assert platform.system() == os.uname().sysname


def test_it_leaves_platform_to_python_under_manage_py(tmp_path):
    output = run(sys.executable, "manage.py", "shell", "-v", "0", "-c", PROBE, PLUMBLINE_DATA_DIR=str(tmp_path))
    assert output.split()[0] == os.uname().sysname


def test_it_leaves_platform_to_python_under_celery(tmp_path):
    # The report prints platform.system() among others, from within the celery program.
    output = run(sys.executable, "-m", "celery", "-A", "plumbline", "report", PLUMBLINE_DATA_DIR=str(tmp_path))
    assert f"system:{os.uname().sysname}" in output


def test_it_leaves_platform_to_python_in_the_web_application(tmp_path):
    probe = "import platform; import plumbline.wsgi, plumbline.asgi; print(platform.system())"
    environ = {"PLUMBLINE_DATA_DIR": str(tmp_path)}
    assert run(sys.executable, "-c", probe, cwd=tmp_path, **environ).strip() == os.uname().sysname


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built by the very backend that pip calls, where that is installed; by pip otherwise."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT))
    return next(folder.glob("plumbline-*.whl"))


@pytest.mark.slow
def test_it_packs_what_it_needs_and_no_more_into_the_wheel(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for needed in (
        "plumbline/settings.py",
        "plumbline/templates/account/login.html",
        "annotation/models/__init__.py",
        "annotation/migrations/0001_initial.py",
        "training/engine/config.py",
        "training/models.py",
    ):
        assert needed in names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.startswith("plumbline-")} == {"plumbline", "annotation", "training"}


@pytest.mark.slow
def test_it_works_from_an_installed_wheel_in_an_empty_folder(wheel, tmp_path):
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--target", str(site)]
    run(*pip, str(wheel))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environ = {"PLUMBLINE_DATA_DIR": str(tmp_path / "data"), "PYTHONPATH": str(site), "PLUMBLINE_ENV": "production"}
    probe = PROBE + "; import annotation, training; print(annotation.__file__, training.__file__)"
    system, *files = run(sys.executable, "-c", probe, cwd=elsewhere, **environ).split()
    assert system == os.uname().sysname
    assert all(file.startswith(str(site)) for file in files)
    run(sys.executable, "-m", "plumbline", "migrate", "-v", "0", cwd=elsewhere, **environ)
    rendered = "from django.template.loader import get_template as g; print(g('account/login.html').origin.name)"
    output = run(sys.executable, "-m", "plumbline", "shell", "-v", "0", "-c", rendered, cwd=elsewhere, **environ)
    assert output.strip().startswith(str(site))


def test_it_pins_every_package_that_it_installs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = project["dependencies"] + project["optional-dependencies"]["dev"]
    assert [requirement for requirement in requirements if "==" not in requirement] == []


def test_it_refuses_an_older_python_with_one_sentence(monkeypatch):
    from plumbline.__main__ import main

    monkeypatch.setattr(sys, "version_info", (3, 9, 18))
    with pytest.raises(SystemExit, match=r"needs Python 3\.11 or newer, and this is Python 3\.9\."):
        main()
