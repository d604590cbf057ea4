"""The README's code runs as it stands there."""

import functools
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ovis.experiments.settings import parse_arguments

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_python_blocks_run_in_order(tmp_path):
    script = tmp_path / "readme.py"
    script.write_text("\n".join(blocks("python")))
    result = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert len(blocks("python")) >= 4
    assert list(tmp_path.glob("runs/readme/events*")), "summary.log wrote nothing"


def test_the_two_commands_stand_word_for_word():
    commands = re.findall(r"pip install -r requirements\.txt && [^`\n]*", README)
    assert commands == [
        "pip install -r requirements.txt && python manager.py --exp quickstart --report",
        "pip install -r requirements.txt && python -m pytest",
    ]


@functools.cache
def usage(script):
    return subprocess.run([sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True).stdout


def test_every_command_names_a_script_and_options_that_exist():
    for block in blocks("bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.split("&&")[-1], comments=True)
            if words[:1] != ["python"] or words[1:3] == ["-m", "pytest"]:
                continue
            if words[1] == "-m":
                assert words[2:4] == ["ovis", "train"]
                parse_arguments(words[4:])
                continue
            assert (ROOT / words[1]).exists(), line
            for option in (word.split("=")[0] for word in words[2:] if word.startswith("--")):
                assert option in usage(words[1]), line


def test_experiment_files_expand():
    from ovis.experiments.runner.experiment_file import parse_experiment

    assert [len(parse_experiment(json.loads(block)).runs) for block in blocks("json")] == [36]


def test_links_and_images_exist():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_table_of_experiments_is_true():
    from ovis.experiments.runner.experiment_file import load_experiment

    rows = re.findall(r"^\| `([\w-]+)` \| (\d+) \|", README, re.MULTILINE)
    assert {name for name, _ in rows} == {path.stem for path in (ROOT / "experiments").glob("*.json")}
    for name, count in rows:
        path = ROOT / "experiments" / f"{name}.json"
        assert json.loads(path.read_text())["description"]
        assert len(load_experiment(path).runs) == int(count)


@pytest.mark.slow
def test_the_example_runs(tmp_path):
    result = subprocess.run(
        [sys.executable, ROOT / "example.py", "--epochs", "2"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    bounds = [float(value) for value in re.findall(r"L_16 = (-?[\d.]+)", result.stdout)]
    assert len(bounds) == 2
    assert bounds[1] > bounds[0]
    source = (ROOT / "example.py").read_text().splitlines()
    assert len(source) - source.index("def main() -> None:") <= 60
