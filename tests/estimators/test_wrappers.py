"""Models inside DistributedDataParallel, DataParallel, AveragedModel and torch.compile."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from slow_cases import slow_except
from torch import Tensor, nn
from torch.distributions import Bernoulli
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

import ovis
from ovis.analysis.gradients import get_gradients_statistics
from ovis.analysis.oracle import check_estimator
from ovis.models import SigmoidBeliefNetwork

B = 4


class Counting(SigmoidBeliefNetwork):
    """Counts the data that it encodes."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__((3,), N=2, depth=1)
        self.double()
        self.encoded: list[int] = []

    def encode(self, x: Tensor) -> Tensor:
        self.encoded.append(len(x))
        return super().encode(x)


class Plain(nn.Module):
    """As the seed's models, without further keywords."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inference_network, self.decoder = nn.Linear(3, 2).double(), nn.Linear(2, 3).double()

    def forward(self, x: Tensor, zgrads: bool = False) -> Any:
        q = Bernoulli(logits=self.inference_network(x))
        z = q.sample()
        px, pz = Bernoulli(logits=self.decoder(z)), Bernoulli(logits=torch.zeros_like(z))
        return {"px": px, "z": [z], "qz": [q], "pz": [pz]}

    def sample_from_prior(self, bs: int) -> Any:
        pz = Bernoulli(logits=torch.zeros(bs, 2, dtype=torch.float64))
        z = pz.sample()
        return {"px": Bernoulli(logits=self.decoder(z)), "z": [z], "pz": [pz]}


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    store = f"file://{tmp_path_factory.mktemp('gloo') / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


WRAPPERS = {
    "ddp": DistributedDataParallel,
    "dp": nn.DataParallel,
    "averaged": AveragedModel,
    "compiled": lambda model: torch.compile(model, backend="eager"),
}


def bits() -> Tensor:
    return (torch.arange(B * 3).view(B, 3) % 2).double()


def samples() -> Tensor:
    """Particles of each datum, [B, 3, 2]."""
    return (torch.arange(B * 6).view(B, 3, 2) % 5 % 2).double()


@pytest.mark.parametrize("name", ["vimco", "ovis-S2-exclusive", "rws", "wake-sleep"])
@pytest.mark.parametrize("Kind", [Counting, Plain])
@pytest.mark.parametrize("wrapper", slow_except(["ddp", "dp", "averaged"], WRAPPERS))
@pytest.mark.usefixtures("group")
def test_a_wrapped_model_gets_the_same_gradient(wrapper: str, Kind: type[nn.Module], name: str) -> None:
    grads = []
    for wrap in (lambda model: model, WRAPPERS[wrapper]):
        model = wrap(Kind())
        inner = next(module for module in model.modules() if isinstance(module, Kind))
        torch.manual_seed(1)
        loss, _, _ = ovis.estimator(name, iw=3)(model, bits())
        loss.mean().backward()
        grads.append([loss.detach(), *(p.grad for p in inner.parameters() if p.grad is not None)])
        if isinstance(inner, Counting):
            assert inner.encoded[0] == B
            assert len(inner.encoded) == 1 + (name == "wake-sleep")
    assert len(grads[0]) == len(grads[1]) > 1
    assert all(map(torch.equal, *grads))


@pytest.mark.parametrize("wrapper", ["ddp", "averaged", "compiled"])
@pytest.mark.usefixtures("group")
def test_a_wrapped_model_is_analysed(wrapper: str) -> None:
    estimator, plain, wrapped = ovis.estimator("vimco", iw=2), Counting(), WRAPPERS[wrapper](Counting())
    means = [get_gradients_statistics(estimator, model, bits(), 10, seed=1)[1].mean for model in (plain, wrapped)]
    assert torch.equal(*means)
    assert check_estimator(estimator, wrapped, bits()).verdict == "unbiased"


TWO = """
import sys, torch
sys.path[:0] = {paths!r}
import ovis
from test_wrappers import Counting, bits, samples
from torch.nn.parallel import DistributedDataParallel
rank = int(sys.argv[1])
torch.distributed.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
model = DistributedDataParallel(Counting())
part = bits()[2 * rank : 2 * rank + 2]
estimator = ovis.estimator(sys.argv[3], iw=3)
z = samples()
inner = model.module
inner._draw = lambda layer, q, lead, zgrads: z[2 * rank : 2 * rank + 2]
estimator(model, part)[0].mean().backward()
if rank == 0:
    torch.save([p.grad for p in inner.parameters()] + [torch.tensor(inner.encoded)], sys.argv[2] + ".pt")
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vimco", "rws"])
def test_two_processes_are_one_on_the_joined_batch(name: str, tmp_path: Path) -> None:
    folder = Path(__file__).parent
    code = TWO.format(paths=[str(path) for path in (folder, folder.parent, folder.parents[1])])
    command = [sys.executable, "-c", code]
    words = [str(tmp_path / "store"), name]
    children = [subprocess.Popen([*command, str(rank), *words]) for rank in range(2)]
    assert [child.wait(200) for child in children] == [0, 0]
    *grads, encoded = torch.load(tmp_path / "store.pt", weights_only=True)
    assert encoded.tolist() == [2]
    model = Counting()
    model._draw = lambda layer, q, lead, zgrads: samples()  # type: ignore[method-assign]
    ovis.estimator(name, iw=3)(model, bits())[0].mean().backward()
    for parameter, grad in zip(model.parameters(), grads, strict=True):
        torch.testing.assert_close(parameter.grad, grad, rtol=1e-12, atol=1e-14)
