"""The rooms of docs/architecture.md: imports point down, and what must start fast never imports torch."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LEVELS = {
    "names": 0,
    "settings": 1,
    "studies": 1.5,
    "functional": 1,
    "diagnostics": 1,
    "models": 2,
    "datasets": 2,
    "runner": 2,
    "estimators": 3,
    "analysis": 4,
    "training": 5,
    "reporting": 6,
    "cli": 7,
}
FILES = sorted((ROOT / "ovis").rglob("*.py"))
DOORS = sorted(path for path in ROOT.glob("*.py") if path.name not in ("setup.py", "example.py"))


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imported_modules(source: str) -> set[str]:
    """Every module that a file imports, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the arrow"
            assert not any(alias.name == "*" for alias in node.names), "star import"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names if node.module == "ovis"}
    return found


def upward(own: str, source: str) -> list[str]:
    """The imports of a file in room ``own`` that break the rule."""
    wrong = []
    for module in imported_modules(source):
        if module.startswith("ovis.") and room(module) in LEVELS:
            other = room(module)
            if other != own and LEVELS[other] >= LEVELS[own]:
                wrong.append(module)
    return wrong


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    parts = path.relative_to(ROOT / "ovis").with_suffix("").parts
    if parts == ("__init__",):
        assert not [m for m in imported_modules(path.read_text()) if m.startswith(("ovis", "torch"))]
        return
    assert parts[0] in LEVELS, f"{path} is in no room: add it to docs/architecture.md and here"
    assert upward(parts[0], path.read_text()) == []


def test_the_rule_notices_an_arrow_that_goes_up():
    assert upward("models", "def f():\n    from ovis.training.loop import train") == ["ovis.training.loop"]
    assert upward("runner", "import ovis.models.vae") == ["ovis.models.vae"]
    assert upward("cli", "from ovis.training.loop import train") == []


@pytest.mark.parametrize("path", [p for p in FILES if p.parts[-2] in ("runner", "engines", "reporting")], ids=str)
def test_runner_and_reporting_do_not_import_torch(path):
    assert not [m for m in imported_modules(path.read_text()) if m.split(".")[0] in ("torch", "torchvision")]


CLI = (
    *("manager", "dbutils", "train", "asymptotic", "measure_efficiency"),
    *("report", "report_asymptotic_variance", "report_figure3"),
)


@pytest.mark.parametrize("module", ["ovis", *(f"ovis.cli.{door}" for door in CLI)])
def test_doors_start_without_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("path", DOORS, ids=lambda path: path.name)
def test_a_door_is_a_door(path):
    """Import main from ovis.cli, call it, nothing else."""
    body = ast.parse(path.read_text()).body[1:]  # after the docstring
    assert [type(node).__name__ for node in body] == ["ImportFrom", "If"]
    assert room(body[0].module) == "cli"
    assert ast.unparse(body[1].body[0]) == "raise SystemExit(main())"


def test_nothing_evaluates_or_unpickles():
    banned = ("eval(", "exec(", "pickle", "shell=True", "os.system")
    for path in FILES:
        text = path.read_text()
        harmless = ("model.eval(", ".eval()", "allow_pickle=False")
        assert not [word for word in banned if word in re.sub("|".join(map(re.escape, harmless)), "", text)], path
        assert "torch.load(" not in text or "weights_only=True" in text, path


def test_files_are_short():
    lengths = sorted(len(path.read_text().splitlines()) for path in FILES if path.stat().st_size)
    assert lengths[len(lengths) // 2] <= 150
    assert lengths[-1] <= 350
    assert not [path for path in FILES if path.stem in ("utils", "helpers", "misc", "common")]
