"""The command ``ovis``, and what a wheel of this repository holds."""

import subprocess
import sys
from pathlib import Path

import pytest

from ovis import __version__
from ovis.experiments.cli import manager
from ovis.experiments.cli.commands import COMMANDS, PACKAGES, main

ROOT = Path(__file__).parents[3]
tomllib = pytest.importorskip("tomllib")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_its_options(name, capsys):
    with pytest.raises(SystemExit) as left:
        main([name, "--help"])
    assert left.value.code == 0
    assert capsys.readouterr().out.startswith("usage:")


def test_help_and_version(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)
    assert main([]) == 2
    assert capsys.readouterr().err == text
    assert main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out


def test_an_unknown_command_is_refused_with_the_nearest(capsys):
    assert main(["raport"]) == 2
    assert capsys.readouterr().err.startswith("ovis: unknown command 'raport'; did you mean 'report'?")


def test_options_and_exit_codes_are_those_of_the_command(capsys):
    assert main(["train", "--estimator", "vimko"]) == 2
    assert "--estimator" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "packages", "extra"),
    [
        ("run", "tinydb", "experiments"),
        ("status", "filelock, rich", "experiments"),
        ("train", "PIL", "experiments"),
        ("report", "pandas, matplotlib", "report"),
        ("figure1", "jinja2", "report"),
        ("figure3", "tinydb, pandas", "report"),
        ("efficiency", "matplotlib", "report"),
    ],
)
def test_a_missing_extra_is_one_line(command, packages, extra, monkeypatch, capsys):
    for package in packages.split(", "):
        monkeypatch.setitem(sys.modules, package, None)
    assert main([command]) == 2
    assert capsys.readouterr().err == f"ovis {command} needs {packages}: pip install 'ovis[{extra}]'\n"


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if command.script])
def test_the_script_of_a_command_needs_the_same_packages(name):
    """Without them it prints the same line, and does not start to import them."""
    without = "import sys; sys.modules['tinydb'] = sys.modules['numpy'] = None"
    code = f"{without}; import runpy; runpy.run_path({COMMANDS[name].script!r}, run_name='__main__')"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    extra = COMMANDS[name].extra
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"ovis {name} needs tinydb: pip install 'ovis[{extra}]'\n"


def test_the_extras_are_those_of_the_distribution():
    extras = PROJECT["project"]["optional-dependencies"]
    assert [name.partition(">")[0] for name in PROJECT["project"]["dependencies"]] == ["torch", "numpy"]
    for extra, packages in PACKAGES.items():
        declared = {text.partition(">")[0] for text in extras[extra]}
        assert {"pillow" if package == "PIL" else package for package in packages} <= declared


def test_a_wheel_holds_every_data_file():
    files = {path for path in (ROOT / "ovis").rglob("*.*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["ovis"]
    assert files == {
        path
        for pattern in patterns
        for path in (ROOT / "ovis").glob(pattern)
        if path.is_file() and path.suffix != ".py"
    }
    assert PROJECT["tool"]["setuptools"]["data-files"] == {"share/ovis/experiments": ["experiments/*.json"]}


def test_an_installed_ovis_brings_its_experiments(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(manager, "INSTALLED_EXPERIMENTS", ROOT / "experiments")
    assert manager.main(["--exp", "no-such-experiment"]) == 2
    assert "quickstart" in capsys.readouterr().err
    (tmp_path / "experiments").mkdir()  # a folder of one's own comes first
    assert manager.main(["--exp", "quickstart"]) == 2
    assert "there are: none" in capsys.readouterr().err


def test_every_script_runs_its_command():
    scripts = {command.script: f'run_command("{name}")' for name, command in COMMANDS.items() if command.script}
    assert all(call in (ROOT / script).read_text() for script, call in scripts.items())
    assert {path.name for path in ROOT.glob("*.py")} - {"setup.py", "example.py"} == scripts.keys()
