"""The core imports and works where torch and NumPy are installed, and nothing but them and what they require."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = ("functional", "models", "estimators", "analysis", "diagnostics")

#: Hides the rest of this distribution, and every installed package that torch and NumPy do not require.
ALONE = '''
import importlib.metadata, re, sys

def requirements(names):
    seen = set()
    while names:
        name = re.sub("[-_.]+", "-", names.pop().lower())
        if name in seen:
            continue
        seen.add(name)
        try:
            found = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        names += [re.match("[A-Za-z0-9._-]+", text)[0] for text in found if "extra ==" not in text]
    return seen

allowed = requirements(["torch", "numpy"])
blocked = {
    module
    for module, owners in importlib.metadata.packages_distributions().items()
    if module != "ovis" and not {re.sub("[-_.]+", "-", owner.lower()) for owner in owners} & allowed
}

class WithoutThem:
    """A finder that finds nothing of the blocked packages, as where they are not installed."""

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked or name in ("ovis.experiments", "ovis.paper"):
            return None
        return self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

assert {"tqdm", "tinydb", "pandas", "matplotlib", "sklearn", "scipy", "tensorboard"} <= blocked
assert not {"torch", "numpy", "filelock", "jinja2"} & blocked
sys.meta_path = [WithoutThem(finder) for finder in sys.meta_path]
'''

#: What the README logs to is the user's: anything with ``add_scalar``.
WRITER = """
import types
class SummaryWriter:
    def __init__(self, *args): self.scalars = []
    def add_scalar(self, tag, value, step): self.scalars.append((tag, value))
sys.modules["torch.utils.tensorboard"] = types.SimpleNamespace(SummaryWriter=SummaryWriter)
"""

IMPORT_ALL = """
import importlib, pkgutil, ovis
for package in map(importlib.import_module, [f"ovis.{name}" for name in %r if name != "diagnostics"]):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
import ovis.diagnostics
assert [getattr(ovis, name) for name in ovis.__all__]
"""

USE = """
import ovis, torch
from ovis import Diagnostic, get_config
from ovis.analysis.active_units import active_units
from ovis.analysis.gradients import get_gradients_statistics
from ovis.analysis.importance_weights import weight_diagnostics
from ovis.analysis.oracle import exact_gradient, exact_moments
from ovis.functional import multisample_loss
from ovis.models import VAE, SigmoidBeliefNetwork

model, x = SigmoidBeliefNetwork((3,), N=2, depth=2), torch.rand(4, 3).round()
for name in ("reinforce-baseline", "vimco", "ovis-gamma1", "ovis-S2", "rws", "wake-sleep", "tvo-part2-beta1"):
    Estimator, config = get_config(name)
    loss, diagnostics, _ = Estimator(mc=2, iw=5, **config)(model, x, backward=True, particles_per_pass=3)
for name in ("vae", "iwae", "stl", "dreg"):
    Estimator, config = get_config(name)
    Estimator(mc=1, iw=5, **config)(VAE((3,), N=2, nlayers=1, hdim=4), x, backward=True)
assert Diagnostic(diagnostics).flat()

Estimator, config = get_config("ovis-gamma0")
estimator = Estimator(mc=1, iw=3, **config)
stats, meta = get_gradients_statistics(estimator, model, x, mc_samples=5)
assert float(stats["grads"]["snr"]) > 0
exact = exact_gradient(SigmoidBeliefNetwork((3,), N=2, depth=1).double(), x[:1].double(), 2)
assert exact_moments(estimator, SigmoidBeliefNetwork((3,), N=2, depth=1), x[:1]).mean.isfinite().all()
assert active_units(model, x, mc_samples=10)["active_units"]["au"] >= 0
assert weight_diagnostics(model, x, iw=30)["weights"]["ess"].shape == (4,)
log_p, log_q = torch.randn(4, 16), torch.randn(4, 16, requires_grad=True)
multisample_loss(log_p, log_q, "ovis-gamma1").mean().backward()
assert ovis.evaluate(model, x, iw=30).L_k.mean < 0
try:
    ovis.load_run("runs")
except ImportError as error:
    assert str(error) == "ovis.load_run needs ovis.experiments: pip install 'ovis[experiments]'"
else:
    raise AssertionError("a run without the runner")
try:
    get_gradients_statistics(estimator, model, x, mc_samples=5, progress=True)
except ImportError as error:
    assert str(error) == "progress=True needs tqdm: pip install tqdm"
else:
    raise AssertionError("a bar without tqdm")
"""

README = "\n".join(re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL))


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [IMPORT_ALL % (CORE,), USE, WRITER + README],
    ids=["every module of the core", "estimators, analysis and functions", "README"],
)
def test_the_core_needs_torch_and_numpy_only(code, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(ALONE + code)
    result = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr


def test_the_source_of_the_core_names_no_other_package():
    """A package that happens to be among torch's requirements is not the core's to import either."""
    files = [path for name in CORE for path in [ROOT / "ovis" / f"{name}.py", *(ROOT / "ovis" / name).rglob("*.py")]]
    roots = set()
    for path in filter(Path.exists, files):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                roots |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                roots.add((node.module or "").split(".")[0])
    assert roots - set(sys.stdlib_module_names) - {"ovis"} <= {"torch", "numpy", "tqdm"}  # tqdm: only for progress=True
