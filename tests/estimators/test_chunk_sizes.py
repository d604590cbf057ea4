"""particles_per_pass="auto": what fits into the memory at hand."""

from __future__ import annotations

import copy
import ctypes
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from estimator_cases import make
from torch import nn

from ovis.estimators import chunk_sizes
from ovis.estimators.sampling import draw, encode
from ovis.models import GaussianVAE, SigmoidBeliefNetwork

K = 100


def network(pixels: int = 30, width: int = 20) -> nn.Module:
    return SigmoidBeliefNetwork((pixels,), N=width, depth=2)


def cost(model: nn.Module, rows: int, pixels: int) -> int:
    x = torch.rand(rows, pixels).round()
    return chunk_sizes.bytes_per_particle(model, x, lambda n: draw(model, x, n, encoded=encode(model, x)))


def test_a_particle_costs_what_its_graph_keeps() -> None:
    """At least x's logits and the samples in float32, at most a few times that; for each datum."""
    for pixels, width in ((30, 20), (300, 20), (30, 200)):
        numbers = pixels + 2 * width
        result = cost(network(pixels, width), 1, pixels)
        assert 4 * numbers <= result <= 5 * 4 * numbers
        assert cost(network(pixels, width), 4, pixels) == pytest.approx(4 * result, rel=0.01)
        assert cost(network(pixels, width).double(), 1, pixels) >= 1.9 * 4 * numbers


def test_measuring_leaves_no_trace() -> None:
    model, x = network(), torch.rand(3, 30).round()
    state, mode = torch.get_rng_state(), model.training
    before = copy.deepcopy(model.state_dict())
    make("vimco", iw=K).chunk_sizes.of(model, x, lambda n: draw(model, x, n, encoded=encode(model, x)))
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training is mode
    assert all(p.grad is None for p in model.parameters())
    torch.testing.assert_close(model.state_dict(), before)


class Counted(SigmoidBeliefNetwork):
    """How many particles each call had."""

    def __init__(self) -> None:
        super().__init__((30,), N=20, depth=2)
        self.calls: list[int] = []

    def infer(self, features: Any, lead: tuple[int, ...], *rest: Any) -> Any:
        self.calls.append(lead[1])
        return super().infer(features, lead, *rest)


@pytest.mark.parametrize("times", [1, 3, 17, 63])
def test_auto_takes_what_fits(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """A power of two of particles, in a share of the memory at hand; measured once, and kept."""
    model, x, estimator = Counted(), torch.rand(3, 30).round(), make("vimco", iw=K, particles_per_pass="auto")
    each = chunk_sizes.PEAK * cost(model, 3, 30)
    monkeypatch.setattr(chunk_sizes, "available_memory", lambda device: int(each * (times + 0.5) / chunk_sizes.SHARE))
    model.calls.clear()
    estimator(model, x, backward=True)
    probes, chunks = model.calls[:2], model.calls[2:]
    assert probes == [chunk_sizes.FEW, chunk_sizes.MORE]
    size = 2 ** (times.bit_length() - 1)
    assert size <= times < 2 * size
    assert chunks == 2 * ([size] * (K // size) + [K % size] * (K % size > 0))
    monkeypatch.setattr(chunk_sizes, "available_memory", lambda device: 0)
    model.calls.clear()
    estimator(model, x)
    assert model.calls[0] == size, "measured anew"


def test_no_memory_at_all_still_takes_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunk_sizes, "available_memory", lambda device: 0)
    loss, _, _ = make("vimco", iw=5)(network(), torch.rand(3, 30).round(), backward=True, particles_per_pass="auto")
    assert torch.isfinite(loss).all()


@pytest.mark.parametrize("name", ["vimco", "ovis-S2-exclusive", "wake-sleep"])
def test_where_all_fit_it_is_one_pass_with_the_same_draws(name: str) -> None:
    model, x, result = network(), torch.rand(3, 30).round(), []
    for settings in ({}, {"particles_per_pass": "auto"}):
        torch.manual_seed(1)
        loss, _, output = make(name, iw=5)(model, x, **settings)
        assert output["z"][0].shape == (3, 5, 20)
        result.append((loss, torch.rand(())))
    assert all(torch.equal(a, b) for a, b in zip(*result, strict=True))


def test_reparameterized_samples_too() -> None:
    model, x = GaussianVAE((30,), N=4, hdim=5, nlayers=1), torch.rand(3, 30).round()
    loss, _, _ = make("dreg", iw=5)(model, x, backward=True, particles_per_pass="auto")
    assert torch.isfinite(loss).all()


def test_an_estimator_can_be_copied_and_sent() -> None:
    estimator = make("vimco", iw=5, particles_per_pass="auto")
    estimator(network(), torch.rand(3, 30).round())
    for again in (copy.deepcopy(estimator), pickle.loads(pickle.dumps(estimator))):  # noqa: S301
        assert again.settings == estimator.settings


# -------------------------------------------------------------------------------------------------- the memory at hand


def test_the_memory_at_hand_is_that_of_the_machine() -> None:
    result = chunk_sizes.available_memory(torch.device("cpu"))
    assert 2**24 < result < 2**50


def test_a_container_may_leave_less(monkeypatch: pytest.MonkeyPatch) -> None:
    files: dict[str, str] = {"/proc/meminfo": "MemTotal: 9000 kB\nMemFree: 1 kB\nMemAvailable:    8000 kB\n"}

    def read(path: Path) -> str:
        if str(path) not in files:
            raise FileNotFoundError(path)
        return files[str(path)]

    monkeypatch.setattr(Path, "read_text", read)
    cpu = torch.device("cpu")
    assert chunk_sizes.available_memory(cpu) == 8000 * 1024
    files.update({"/sys/fs/cgroup/memory.max": "max\n", "/sys/fs/cgroup/memory.current": "500\n"})
    assert chunk_sizes.available_memory(cpu) == 8000 * 1024
    files["/sys/fs/cgroup/memory.max"] = "600000\n"
    assert chunk_sizes.available_memory(cpu) == 599_500
    files["/sys/fs/cgroup/memory.stat"] = "anon 7\ninactive_file 400\nactive_file 3\n"  # a cache that is given back
    assert chunk_sizes.available_memory(cpu) == 599_900
    files["/sys/fs/cgroup/memory.current"] = "700000\n"
    assert chunk_sizes.available_memory(cpu) == 0
    del files["/sys/fs/cgroup/memory.max"]
    files["/sys/fs/cgroup/memory/memory.limit_in_bytes"] = "1000000\n"
    files["/sys/fs/cgroup/memory/memory.usage_in_bytes"] = "10\n"
    files["/sys/fs/cgroup/memory/memory.stat"] = "inactive_file 1\ntotal_inactive_file 4\n"
    assert chunk_sizes.available_memory(cpu) == 999_994


GAPS = """
from pathlib import Path
import torch
from ovis.estimators.chunk_sizes import keep_freed_memory, release_freed_memory

def resident():
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024

keep_freed_memory()
blocks = [torch.zeros(2**20) for _ in range(50)]
del blocks[:-1]  # the last one holds the heap's end where it is
before = resident()
release_freed_memory()
print(before - resident())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="no glibc here")
def test_gaps_between_what_stays_are_given_back() -> None:
    """49 blocks of 4 MB."""
    result = subprocess.run([sys.executable, "-c", GAPS], capture_output=True, text=True, check=True)
    assert float(result.stdout) > 180
