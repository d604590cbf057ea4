"""The layers of docs/architecture.md: imports point down, and what must start fast never imports torch."""

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: A package or module may import what stands further down in the tree: of a lower number, or its own.
LEVELS = {
    "suggestions": 0,  # torch-free, as is the next
    "estimators.ids": 0.5,
    "functional": 1,
    "nests": 1,
    "diagnostics": 1,
    "models": 2,
    "estimators": 3,
    "analysis": 4,
    "experiments": 10,
    "experiments.models": 5,
    "experiments.datasets": 5,
    "experiments.settings": 6,
    "experiments.plugins": 6.1,
    "experiments.studies": 6.3,
    "experiments.runs": 6.6,
    "experiments.training": 7,
    "experiments.runner": 7,
    "experiments.reporting": 8,
    "experiments.cli": 9,
    "paper": 20,
    "__main__": 30,
    "cli": 30,  # the former path of the training
}
FILES = sorted((ROOT / "ovis").rglob("*.py"))
ENTRY_POINTS = sorted(path for path in ROOT.glob("*.py") if path.name not in ("setup.py", "example.py"))


def layer(module: str) -> str:
    """The longest key of LEVELS that holds the module; empty: none."""
    parts = module.split(".")[1:]
    names = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((name for name in names if name in LEVELS), "")


def imported_modules(source: str | ast.Module) -> set[str]:
    """Every module that a file imports, inside functions too."""
    result: set[str] = set()
    for node in ast.walk(ast.parse(source) if isinstance(source, str) else source):
        if isinstance(node, ast.Import):
            result |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the arrow"
            assert not any(alias.name == "*" for alias in node.names), "star import"
            module = node.module or ""
            result.add(module)
            if module.startswith("ovis"):
                result |= {f"{module}.{alias.name}" for alias in node.names}
    return result


def without_annotation_imports(source: str) -> ast.Module:
    """The code without the imports that only type checkers read."""
    tree = ast.parse(source)
    tree.body = [
        node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    ]
    return tree


def upward(module: str, source: str) -> list[str]:
    """The imports of a module that break the rule."""
    own = layer(module)
    wrong = []
    for other in sorted(imported_modules(source)):
        target = layer(other) if other.startswith("ovis.") else ""
        if target and target != own and LEVELS[target] >= LEVELS[own]:
            wrong.append(other)
    return wrong


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    if path.name == "__init__.py":
        parts = parts[:-1]
    if parts == ("ovis",):
        executed = without_annotation_imports(path.read_text())
        assert not [m for m in imported_modules(executed) if m.startswith(("ovis", "torch"))]
        assert imported_modules(executed)
        return
    module = ".".join(parts)
    assert layer(module), f"{path} is in no layer: add it to docs/architecture.md and here"
    assert upward(module, path.read_text()) == []


def test_the_rule_notices_an_arrow_that_goes_up():
    trainer = "from ovis.experiments.training.trainer import Trainer"
    assert "ovis.experiments.training.trainer" in upward("ovis.models.vae", f"def f():\n    {trainer}")
    assert upward("ovis.experiments.runner.job", "import ovis.experiments.cli.train") == ["ovis.experiments.cli.train"]
    assert upward("ovis.experiments.cli.report", "import ovis.paper.paper_presets") == ["ovis.paper.paper_presets"]
    assert upward("ovis.experiments.cli.train", trainer) == []


def strings(source: str) -> list[str]:
    """The string constants of a file, without docstrings."""
    tree = ast.parse(source)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None
    }
    constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docstrings]
    return [node.value for node in constants if isinstance(node.value, str)]


def test_nothing_in_the_experiments_refers_to_the_paper():
    """Not even by a name that is imported later: ``ovis/paper/plugin.py`` registers what the paper adds."""
    for path in (ROOT / "ovis" / "experiments").rglob("*.py"):
        source = path.read_text()
        named = [text for text in (*strings(source), *imported_modules(source)) if re.search(r"ovis[./]paper", text)]
        assert not named, path
    assert strings('"""ovis.paper"""\ndef f():\n    "ovis.paper"\n    return "ovis.paper.x"') == ["ovis.paper.x"]
    assert [text for text in strings((ROOT / "ovis/paper/plugin.py").read_text()) if "ovis.paper" in text]


def import_graph(sources: dict[str, str]) -> dict[str, set[str]]:
    """The modules that each module imports, inside functions too, without imports for annotations."""
    return {
        module: {
            name for name in imported_modules(without_annotation_imports(source)) if name in sources and name != module
        }
        for module, source in sources.items()
    }


def test_no_imports_form_a_circle():
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in FILES]
    texts = [path.read_text() for path in FILES]
    # a package's own file is imported before its modules in any case
    inner = {name: text for name, text, path in zip(names, texts, FILES, strict=True) if path.name != "__init__.py"}
    assert len(list(TopologicalSorter(import_graph(inner)).static_order())) == len(inner)
    with pytest.raises(CycleError):
        TopologicalSorter(import_graph({"ovis.a": "import ovis.b", "ovis.b": "def f():\n    import ovis.a"})).prepare()


TORCH_FREE = [p for p in FILES if {"runs", "runner", "reporting"} & set(p.relative_to(ROOT).parts)]


@pytest.mark.parametrize("path", TORCH_FREE, ids=str)
def test_runs_runner_and_reporting_do_not_import_torch(path):
    assert not [m for m in imported_modules(path.read_text()) if m.split(".")[0] in ("torch", "torchvision")]


COMMANDS = (
    *(f"ovis.experiments.cli.{name}" for name in ("manager", "dbutils", "train", "report")),
    *(
        f"ovis.paper.{name}"
        for name in ("figure1.run", "figure1.figure1_cli", "figure3.figure3_cli", "efficiency.efficiency_cli")
    ),
)


@pytest.mark.parametrize("module", ["ovis", *COMMANDS])
def test_commands_start_without_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("path", ENTRY_POINTS, ids=lambda path: path.name)
def test_an_entry_point_runs_a_command(path):
    body = ast.parse(path.read_text()).body[1:]  # after the docstring
    assert [type(node).__name__ for node in body] == ["ImportFrom", "If"]
    assert body[0].module == "ovis.experiments.cli.commands"
    assert ast.unparse(body[1].body[0]).startswith("raise SystemExit(run_command(")


def test_nothing_evaluates_or_unpickles():
    banned = ("eval(", "exec(", "pickle", "shell=True", "os.system")
    for path in FILES:
        text = path.read_text()
        # the last: which functions Ray sends to its nodes by itself
        harmless = ("model.eval(", ".eval()", "allow_pickle=False", "ray.cloudpickle.register_pickle_by_value(")
        assert not [word for word in banned if word in re.sub("|".join(map(re.escape, harmless)), "", text)], path
        assert "torch.load(" not in text or "weights_only=True" in text, path


def test_no_file_is_named_after_nothing():
    assert not [path for path in FILES if path.stem in ("utils", "helpers", "misc", "common")]
