"""Every script answers --help, importing any module does nothing, and bad input gets one line and a non-zero exit."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from slow_cases import slow_except

ROOT = Path(__file__).parents[1]
ENTRY_POINTS = [
    ["manager.py"],
    ["dbutils.py"],
    ["report.py"],
    ["report_asymptotic_variance.py"],
    ["report_figure3.py"],
    ["measure_efficiency.py"],
    ["example.py"],
    ["-m", "ovis"],
    ["-m", "ovis.cli.train"],  # its former path
    ["-m", "ovis.experiments.cli.train"],
    ["-m", "ovis.experiments.runner.job"],
]
#: What imports an extra; the engines are imported when they are asked for.
EXTRAS = {
    "ovis.experiments.runner.engines.ray_cluster": "ray",
}
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "ovis").rglob("*.py")
)
MODULES = [name for name in MODULES if name not in EXTRAS or importlib.util.find_spec(EXTRAS[name])]
BENCHMARKS = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py"))


def run(*words, cwd=ROOT):
    return subprocess.run([sys.executable, *words], cwd=cwd, capture_output=True, text=True, timeout=120)


#: Packages that take long to import, or that only a machine with GPUs needs.
HEAVY = {"torch", "numpy", "pandas", "matplotlib", "sklearn", "pynvml", "ray"}


@pytest.mark.parametrize(
    "words",
    slow_except([words for words in ENTRY_POINTS if words != ["example.py"]], ENTRY_POINTS),
    ids=lambda words: words[-1],
)
def test_help_is_shown_before_anything_heavy_is_imported(words):
    result = run("-X", "importtime", *words, "--help")
    assert result.returncode == 0
    assert result.stdout.startswith("usage:")
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in result.stderr.splitlines()}
    assert "ovis" in imported
    if words != ["example.py"]:
        assert not imported & HEAVY


def test_every_script_in_the_root_is_tested():
    assert {path.name for path in ROOT.glob("*.py")} - {"setup.py"} == {
        words[0] for words in ENTRY_POINTS if words[0] != "-m"
    }


@pytest.mark.slow
def test_importing_every_module_does_nothing(tmp_path):
    """No output, no file, no seed, no global state of matplotlib; all in one process, in an empty folder."""
    code = f"""
import importlib, random, sys
import rich.style  # draws a number from Python's generator when it is first imported
random.seed(3); state = random.getstate()
import torch
torch.manual_seed(3); seed = torch.get_rng_state()
threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
sys.argv = ["x", "--nonsense"]
sys.path.insert(0, {str(ROOT / "benchmarks")!r})
for name in {MODULES + BENCHMARKS!r}:
    importlib.import_module(name)
assert random.getstate() == state and torch.equal(torch.get_rng_state(), seed)
assert (torch.get_num_threads(), torch.get_default_dtype()) == (threads, dtype)
assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
"""
    result = run("-c", code, cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (["-m", "ovis.experiments.cli.train", "--estimater", "vimco"], 2, "--estimator"),
        (["-m", "ovis.experiments.cli.train", "--estimator", "vimko"], 2, "vimco"),
        (["-m", "ovis.experiments.cli.train", "--iw", "0"], 2, "--iw"),
        (
            ["-m", "ovis.experiments.cli.train", "--estimator", "vimco", "--iw", "1", "--dataset", "digits"],
            2,
            "at least 2",
        ),
        (
            ["-m", "ovis.experiments.cli.train", "--estimator", "vae", "--alpha", "0.5", "--dataset", "digits"],
            2,
            "--alpha",
        ),
        (
            ["-m", "ovis.experiments.cli.train", "--estimator", "iwae", "--model", "sbm", "--dataset", "digits"],
            2,
            "iwae",
        ),
        (["-m", "ovis.experiments.cli.train", "--dataset", "digits", "--exp", "../evil"], 2, "--exp"),
        pytest.param(
            ["-m", "ovis.experiments.cli.train", "--dataset", "digits", "--grad_key", "nobody"],
            2,
            "--grad_key",
            marks=pytest.mark.slow,
        ),
        (["manager.py", "--exp", "no-such-experiment"], 2, "no-such-experiment"),
        (["report.py", "--exp", "no-such-experiment"], 2, "no-such-experiment"),
        pytest.param(
            ["report_asymptotic_variance.py", "--exp", "no-such-experiment"],
            2,
            "no-such-experiment",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["report_figure3.py", "--figure", "left", "--exp", "no-such-experiment"],
            2,
            "no-such-experiment",
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda value: " ".join(value[-4:]) if isinstance(value, list) else None,
)
def test_bad_input_gets_one_line(words, code, part, tmp_path):
    words = [*words, "--root", str(tmp_path)]
    result = run(*words)
    assert result.returncode == code
    last = result.stderr.strip().splitlines()[-1]
    assert part in last
    assert "Traceback" not in result.stdout + result.stderr


def test_a_root_that_can_not_be_written_gets_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    result = run("-m", "ovis.experiments.cli.train", "--dataset", "digits", "--root", str(tmp_path / "file"))
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert str(tmp_path / "file") in result.stderr


def test_a_refused_combination_leaves_nothing_behind(tmp_path):
    run("-m", "ovis.experiments.cli.train", "--estimator", "rws", "--freebits", "1", "--root", str(tmp_path))
    assert list(tmp_path.iterdir()) == []
