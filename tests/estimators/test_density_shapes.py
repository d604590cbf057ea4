"""Densities that broadcast over other rows are refused; every layout that scores each row alone is accepted."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from estimator_cases import make
from torch import Tensor, nn
from torch.distributions import (
    AffineTransform,
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
    TransformedDistribution,
)

import ovis
from ovis.analysis.evaluate import evaluate
from ovis.estimators.sampling import score_dreams
from ovis.models import Masked, Model, SigmoidBeliefNetwork, Template
from ovis.models.distributions import BernoulliVector, OneHotVector

B, K = 4, 3

Layers = tuple[Distribution, Tensor, Distribution, Distribution]  # px, z, qz, pz


class Rows(Template):
    """A user's model whose distributions are made from the number of rows."""

    def __init__(self, make: Callable[[int], Layers]):
        super().__init__()
        self.make = make
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, **kwargs: Any) -> Any:
        px, z, qz, pz = self.make(len(x))
        return {"px": px, "z": [z], "qz": [qz], "pz": [pz]}

    def sample_from_prior(self, bs: int, **kwargs: Any) -> Any:
        px, z, _, pz = self.make(bs)
        return {"px": px, "z": [z], "pz": [pz]}


class Particles(Model):
    """The same as a model that draws [B, N] particles."""

    def __init__(self, make: Callable[[int, int], Layers]):
        super().__init__()
        self.make = make

    def encode(self, x: Tensor) -> Tensor:
        return x

    def infer(self, features: Tensor, lead: Any, zgrads: bool, tau: float, given: Any) -> Any:
        px, z, qz, pz = self.make(lead[0], lead[1] if len(lead) == 2 else 1)
        self.px, self.pz = px, pz
        return [z], [qz]

    def generate(self, z: Any, h: Any, tau: float) -> Any:
        return self.px, [self.pz]

    def sample_from_prior(self, bs: int, **kwargs: Any) -> Any:
        raise NotImplementedError


def normal(*shape: int, events: int = 0) -> Distribution:
    return Independent(Normal(torch.randn(shape), 1.0), events) if events else Normal(torch.randn(shape), 1.0)


def simple(rows: int) -> tuple[Tensor, Distribution, Distribution]:
    return torch.randn(rows, 2), normal(rows, 2, events=1), normal(2, events=1)


def with_px(px: Callable[[int], Distribution]) -> Callable[[int], Layers]:
    return lambda rows: (px(rows), *simple(rows))


def with_z(z: Callable[[int], Tensor], q: Callable[[int], Distribution], p: Callable[[int], Distribution]) -> Any:
    return lambda rows: (normal(rows, 5, events=1), z(rows), q(rows), p(rows))


def classes(*shape: int) -> Distribution:
    return Categorical(logits=torch.randn(*shape, 6))


#: name -> (shape of a datum, the layers, the one that is refused)
REFUSED: dict[str, tuple[tuple[int, ...], Callable[[int], Layers], str]] = {
    "px [R, 1], x [R]": ((), with_px(lambda r: normal(r, 1)), "px"),
    "px [R, 1] as events": ((), with_px(lambda r: normal(r, 1, events=1)), "px"),
    "px [R, 1, 8, 8], x [R, 8, 8]": ((8, 8), with_px(lambda r: normal(r, 1, 8, 8)), "px"),
    "px [R, 1, 8, 8] as images": ((8, 8), with_px(lambda r: normal(r, 1, 8, 8, events=3)), "px"),
    "px [R, 1, 8, 8] as rows of images": ((8, 8), with_px(lambda r: normal(r, 1, 8, 8, events=2)), "px"),
    "px of 3 channels, x of 1": ((1, 8, 8), with_px(lambda r: normal(r, 3, 8, 8)), "px"),
    "px of 3 channels as images, x of 1": ((1, 8, 8), with_px(lambda r: normal(r, 3, 8, 8, events=3)), "px"),
    "px [R, 8, 1], x [R, 1, 8]": ((1, 8), with_px(lambda r: normal(r, 8, 1)), "px"),
    "px [R, 8, 1], x [R, 1, 8], events": ((1, 8), with_px(lambda r: normal(r, 8, 1, events=1)), "px"),
    "px [R], x [R, 1]": ((1,), with_px(lambda r: normal(r)), "px"),
    "px [R, 1] Bernoulli vector": ((), with_px(lambda r: BernoulliVector(torch.randn(r, 1))), "px"),
    "prior [R, 1, 4]": (
        (5,),
        with_z(lambda r: torch.randn(r, 4), lambda r: normal(r, 4), lambda r: normal(r, 1, 4)),
        "pz",
    ),
    "prior [R, 1, 4], events": (
        (5,),
        with_z(lambda r: torch.randn(r, 4), lambda r: normal(r, 4), lambda r: normal(r, 1, 4, events=1)),
        "pz",
    ),
    "q [R, 1, 4]": ((5,), with_z(lambda r: torch.randn(r, 4), lambda r: normal(r, 1, 4), lambda r: normal(4)), "qz"),
    "integer z [R, 1]": (
        (5,),
        with_z(lambda r: torch.zeros(r, 1, dtype=torch.long), lambda r: classes(r, 1), classes),
        "pz",
    ),
    "integer z [R, 1], q [R]": ((5,), with_z(lambda r: torch.zeros(r, 1), classes, lambda r: classes()), "qz"),
    "one-hot z [R, 6], q [R, 1]": (
        (5,),
        with_z(
            lambda r: torch.eye(6)[torch.zeros(r, dtype=torch.long)],
            lambda r: OneHotVector(torch.randn(r, 1, 6)),
            lambda r: OneHotVector(torch.zeros(6)),
        ),
        "qz",
    ),
}


@pytest.mark.parametrize("size", [None, 1])
@pytest.mark.parametrize("iw", [2, B])
@pytest.mark.parametrize("case", REFUSED)
def test_a_density_over_other_rows_is_refused(case: str, iw: int, size: int | None) -> None:
    event, layers, name = REFUSED[case]
    with pytest.raises(
        ValueError, match=rf"^{name}: log_prob of \w+ has shape \([\d, ]+\) and events of shape .* for a value of "
    ):
        make("vimco", iw=iw)(Rows(layers), torch.zeros(B, *event), particles_per_pass=size)
    for other in ("vimco+iwae", "rloo"):
        with pytest.raises(ValueError, match=rf"^{name}: log_prob of .* rows are scored against other rows"):
            ovis.estimator(other, iw=iw)(Rows(layers), torch.zeros(B, *event), particles_per_pass=size)
    with pytest.raises(ValueError, match="rows are scored against other rows"):
        evaluate(Rows(layers), torch.zeros(B, *event), 1, B)


def test_the_message_has_the_shapes() -> None:
    message = (
        r"px: log_prob of Normal has shape \(8, 8\) and events of shape \(\) for a value of shape \(8,\): they were "
        "broadcast, so that rows are scored against other rows; give distribution and value the same dimensions"
    )
    with pytest.raises(ValueError, match=message):
        make("vimco", iw=2)(Rows(REFUSED["px [R, 1], x [R]"][1]), torch.zeros(B))


@pytest.mark.parametrize(
    ("x_shape", "shape", "iw"),
    [
        *(((1, 28, 28), (64, 28, 28), iw) for iw in (1, 64)),
        *(((784,), (rows, 1, 784), iw) for rows, iw in ((64, 1), (16, 16))),
    ],
)
def test_images_of_another_shape_are_refused_by_a_particle_model(x_shape: Any, shape: Any, iw: int) -> None:
    """With as many particles as images, every shape has a row for each particle: of another image."""
    model, x, rows = SigmoidBeliefNetwork(x_shape, N=20, depth=1), torch.rand(shape).round(), shape[0]
    message = (
        rf"px: log_prob of BernoulliVector has shape \({rows}, {rows}.* for a value of shape \({rows}, 1, .*784|28\)"
    )
    for refused in (lambda: make("reinforce", iw=iw)(model, x), lambda: evaluate(model, x, iw, rows, max_values=2**22)):
        with pytest.raises(ValueError, match=message):
            refused()
    with pytest.raises(ValueError, match=message):
        make("reinforce", mc=rows, iw=iw)(model, x, particles_per_pass=iw)


PARTICLES_REFUSED: dict[str, tuple[tuple[int, ...], Callable[[int, int], Layers], str]] = {
    "px [B, N], x [B, 1]": ((1,), lambda b, n: (normal(b, n), torch.randn(b, n), normal(b, n), normal()), "px"),
    "q of 5 numbers, z of 1": (
        (),
        lambda b, n: (normal(b, n), torch.randn(b, n, 1), normal(b, n, 5, events=1), normal(1, events=1)),
        "qz",
    ),
    "q [B], z [B, N]": ((), lambda b, n: (normal(b, n), torch.randn(b, n), normal(b, 1, 1), normal()), "qz"),
    "px with a mask [B, D]": (
        (2,),
        lambda b, n: (
            Masked(normal(b, n, 2), torch.ones(b, 2, dtype=torch.bool)),
            torch.randn(b, n),
            normal(b, n),
            normal(),
        ),
        "px",
    ),
    "px [B, D] with a mask [B, 1, D]": (
        (2,),
        lambda b, n: (
            Independent(Masked(normal(b, 2), torch.ones(b, 1, 2, dtype=torch.bool)), 1),
            torch.randn(b, n),
            normal(b, n),
            normal(),
        ),
        "px",
    ),
    "px of vectors with a mask [B]": (
        (2,),
        lambda b, n: (
            Masked(normal(b, n, 2, events=1), torch.ones(b, dtype=torch.bool)),
            torch.randn(b, n),
            normal(b, n),
            normal(),
        ),
        "px",
    ),
    "px with a mask [B, 1, N, D]": (
        (2,),
        lambda b, n: (
            Masked(normal(b, n, 2), torch.ones(b, 1, n, 2, dtype=torch.bool)),
            torch.randn(b, n),
            normal(b, n),
            normal(),
        ),
        "px",
    ),
    "prior [B, 1, 1, 4], z [B, N, 4]": (
        (),
        lambda b, n: (normal(b, n), torch.randn(b, n, 4), normal(b, n, 4), normal(b, 1, 1, 4)),
        "pz",
    ),
}


#: the parameters of datum k, with which torch's rules of broadcasting score particle k of every datum
PARTICLES_REFUSED |= {
    f"{name} [B, D], {events} event dimensions": (
        (2,),
        lambda b, n, name=name, events=events: (  # type: ignore[misc]
            normal(b, *(() if name == "px" else (n,)), 2, events=events),
            torch.randn(b, n, 2),
            normal(b, *(() if name == "qz" else (n,)), 2, events=events),
            normal(b, *(() if name == "pz" else (n,)), 2, events=events),
        ),
        name,
    )
    for name in ("px", "qz", "pz")
    for events in (0, 1)
}


@pytest.mark.parametrize("size", [None, 1])
@pytest.mark.parametrize("case", PARTICLES_REFUSED)
def test_particles_of_other_data_are_refused(case: str, size: int | None) -> None:
    """As many particles as data: every shape has a row for each particle."""
    event, layers, name = PARTICLES_REFUSED[case]
    with pytest.raises(ValueError, match=rf"{name}: log_prob of \w+ has shape .* rows are scored against other rows"):
        make("reinforce", iw=B)(Particles(layers), torch.zeros(B, *event), particles_per_pass=size)
    with pytest.raises(ValueError, match=rf"{name}: log_prob of \w+ has shape .* rows are scored against other rows"):
        ovis.estimator("vimco+iwae", iw=B)(Particles(layers), torch.zeros(B, *event), particles_per_pass=size)


def test_dreams_of_other_rows_are_refused() -> None:
    layers = with_z(lambda r: torch.randn(r, 4), lambda r: normal(r, 1, 4), lambda r: normal(r, 4))
    with pytest.raises(ValueError, match=r"qz: log_prob of Normal has shape .* rows are scored against other rows"):
        score_dreams(Rows(layers), 6)


# --------------------------------------------------------------------------------------------------------- valid ones


class Summed(Distribution):
    """A distribution of a user's own, which declares no shapes and sums over everything but the rows."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, mean: Tensor, over: tuple[int, ...] | None = None):
        super().__init__(validate_args=False)
        self.mean_, self.over = mean, over

    def log_prob(self, value: Tensor) -> Tensor:
        each = Normal(self.mean_, 1.0).log_prob(value.reshape(value.shape[:1] + self.mean_.shape[1:]))
        return each.flatten(1).sum(1) if self.over is None else each.sum(self.over)


class Each(Distribution):
    """A distribution of a user's own, which declares no shapes and arranges the density of each number."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, mean: Tensor, arrange: Callable[[Tensor], Tensor]):
        super().__init__(validate_args=False)
        self.mean_, self.arrange = mean, arrange

    def log_prob(self, value: Tensor) -> Tensor:
        return self.arrange(Normal(self.mean_, 1.0).log_prob(value))


class Bare:
    """No torch distribution at all."""

    def __init__(self, mean: Tensor):
        self.mean = mean

    def log_prob(self, value: Tensor) -> Tensor:
        return Normal(self.mean, 1.0).log_prob(value)


class Flat(Independent):
    """Declares flat events, and flattens what it scores."""

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value.flatten(1))


class Unflattened(Independent):
    """Declares events of two dimensions, and takes flat ones."""

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value.view(-1, 4, 4))


def log_normal(value: Tensor, mean: Tensor) -> Tensor:
    return -(value - mean).square() / 2 - math.log(2 * math.pi) / 2


def of(mean: Tensor, events: int = 0) -> Distribution:
    return Independent(Normal(mean, 1.0), events) if events else Normal(mean, 1.0)


def mixture(mean: Tensor, events: int) -> Distribution:
    """Two equal components: the density of one."""
    parts = of(torch.stack([mean, mean], mean.dim() - events), events)
    return MixtureSameFamily(Categorical(logits=torch.zeros(*mean.shape[: mean.dim() - events], 2)), parts)


def shifted(mean: Tensor, events: int) -> Distribution:
    return TransformedDistribution(of(torch.zeros_like(mean), events), [AffineTransform(mean, 1.0)])


#: name -> (shape of a datum, distribution of given means [rows, *event]); all have the density N(x; mean, 1)
LAYOUTS: dict[str, tuple[tuple[int, ...], Callable[[Tensor], Any]]] = {
    "scalar": ((), of),
    "scalar mixture": ((), lambda mean: mixture(mean, 0)),
    "scalar transformed": ((), lambda mean: shifted(mean, 0)),
    "one number": ((1,), of),
    "one number, event": ((1,), lambda mean: of(mean, 1)),
    "vector": ((5,), of),
    "vector of B": ((B,), of),
    "vector, event": ((5,), lambda mean: of(mean, 1)),
    "vector of K, event": ((K,), lambda mean: of(mean, 1)),
    "vector mixture": ((5,), lambda mean: mixture(mean, 1)),
    "mixture of each": ((5,), lambda mean: mixture(mean, 0)),
    "vector transformed": ((5,), lambda mean: shifted(mean, 1)),
    "multivariate": ((5,), lambda mean: MultivariateNormal(mean, torch.eye(5))),
    "matrix": ((2, 5), of),
    "matrix, half an event": ((2, 5), lambda mean: of(mean, 1)),
    "multivariate rows": ((2, 5), lambda mean: MultivariateNormal(mean, torch.eye(5))),
    "image": ((1, 4, 4), of),
    "image, event": ((1, 4, 4), lambda mean: of(mean, 3)),
    "image, pixels": ((1, 4, 4), lambda mean: of(mean, 2)),
    "image of 3 channels": ((3, 4, 4), lambda mean: of(mean, 3)),
    "summed by the user": ((3, 4, 4), Summed),
    "channels summed by the user": ((3, 4, 4), lambda mean: Summed(mean, (1,))),
    "channel summed by the user": ((1, 4, 4), lambda mean: Summed(mean, (1,))),
    "rows summed by the user": ((3, 4, 4), lambda mean: Summed(mean, (2,))),
    "flattened by the user": ((1, 4, 4), lambda mean: Summed(mean.flatten(1))),
    "flat events": ((1, 4, 4), lambda mean: Flat(Normal(mean.flatten(1), 1.0), 1)),
    "number with a dimension more, by the user": ((), lambda mean: Each(mean, lambda each: each.unsqueeze(-1))),
    "flat and not summed by the user": ((1, 4, 4), lambda mean: Each(mean, lambda each: each.flatten(1))),
    "channels last by the user": ((3, 4, 5), lambda mean: Each(mean, lambda each: each.permute(0, 2, 3, 1))),
    "kept dimensions by the user": ((5,), lambda mean: Each(mean, lambda each: each.sum(1)[:, None, None, None])),
    "patches by the user": ((16,), lambda mean: Each(mean, lambda each: each.view(-1, 4, 4))),
    "pooled by the user": ((4, 4), lambda mean: Each(mean, lambda each: each.view(-1, 2, 2, 4).sum(-1))),
    "unflattened, declared by the user": ((16,), lambda mean: Unflattened(Normal(mean.view(-1, 4, 4), 1.0), 2)),
    "no torch distribution": ((2, 5), Bare),
}


@pytest.mark.parametrize("iw", [1, K, B])
@pytest.mark.parametrize("case", LAYOUTS)
def test_rows_of_any_layout_are_accepted(case: str, iw: int) -> None:
    """As px and as q and p of z, with the values of the textbook."""
    event, layout = LAYOUTS[case]
    rows = B * iw
    torch.manual_seed(0)
    x, z = torch.randn(B, *event), torch.randn(rows, *event)
    means = torch.randn(3, rows, *event)
    model = Rows(lambda r: (layout(means[0]), z, layout(means[1]), layout(means[2])))
    loss, diagnostics, _ = make("reinforce", iw=iw)(model, x)
    densities = [
        log_normal(value, mean).reshape(B, iw, -1).sum(-1)
        for value, mean in zip((x.repeat_interleave(iw, 0), z, z), means, strict=True)
    ]
    log_px, log_qz, log_pz = densities
    torch.testing.assert_close(-loss, (log_px + log_pz - log_qz).logsumexp(1) - math.log(iw))
    torch.testing.assert_close(diagnostics["loss"]["nll"], -log_px.mean(1))


@pytest.mark.parametrize("iw", [1, K, B])
@pytest.mark.parametrize("shared", ["nothing", "q", "p", "both"])
@pytest.mark.parametrize("case", [name for name in LAYOUTS if not name.endswith(("by the user", "flat events"))])
def test_particles_of_any_layout_are_accepted(case: str, shared: str, iw: int) -> None:
    """x, and the parameters of q and p, may have one row for all particles of a datum."""
    event, layout = LAYOUTS[case]
    torch.manual_seed(0)
    x, z = torch.randn(B, *event), torch.randn(B, iw, *event)
    of_x = torch.randn(B, iw, *event)
    of_q = torch.randn(B, 1 if shared in ("q", "both") else iw, *event)
    of_p = torch.randn(*((1, 1) if shared in ("p", "both") else (B, iw)), *event)
    model = Particles(lambda b, n: (layout(of_x), z, layout(of_q), layout(of_p)))
    loss, _, _ = make("reinforce", iw=iw)(model, x)
    densities = [
        log_normal(value, mean).expand(B, iw, *event).reshape(B, iw, -1).sum(-1)
        for value, mean in ((x.unsqueeze(1), of_x), (z, of_p), (z, of_q))
    ]
    torch.testing.assert_close(-loss, (densities[0] + densities[1] - densities[2]).logsumexp(1) - math.log(iw))


@pytest.mark.parametrize("iw", [1, K, B])
def test_a_density_of_a_part_of_the_numbers_is_accepted(iw: int) -> None:
    """Of all but the first given the one before, and of observed ones with a mask beside them."""
    torch.manual_seed(0)
    x = torch.randn(B, 6)

    def next_ones(value: Tensor) -> Tensor:
        return log_normal(value[:, 1:], value[:, :-1])

    def masked(value: Tensor) -> Tensor:
        return log_normal(value[:, :3], torch.zeros(3)) * value[:, 3:]

    class Part(Distribution):
        arg_constraints: dict[str, Any] = {}  # noqa: RUF012

        def __init__(self, density: Callable[[Tensor], Tensor]):
            super().__init__(validate_args=False)
            self.log_prob = density  # type: ignore[method-assign]

    for density in (next_ones, masked):
        _, diagnostics, _ = make("reinforce", iw=iw)(Rows(with_px(lambda r, density=density: Part(density))), x)  # type: ignore[misc]
        torch.testing.assert_close(diagnostics["loss"]["nll"], -density(x).sum(1))


@pytest.mark.parametrize("iw", [1, B])
def test_parameters_of_each_particle_and_shared_ones_are_accepted(iw: int) -> None:
    z = torch.randn(B, iw, 2)
    for p in ((), (1,), (2,), (1, 2), (1, iw, 2), (B, 1, 2)):
        model = Particles(lambda b, n, p=p: (normal(b, n, 5), z, normal(b, 1, 2, events=1), normal(*p)))  # type: ignore[misc]
        assert make("reinforce", iw=iw)(model, torch.zeros(B, 5))[0].isfinite().all()


@pytest.mark.parametrize("iw", [1, K, B])
@pytest.mark.parametrize("mask", [(), (2,), (1, 2), (B, 1, 2), (1, 1, 2)])
def test_masks_of_each_datum_and_shared_ones_are_accepted(mask: Any, iw: int) -> None:
    torch.manual_seed(0)
    x, mean, z = torch.randn(B, 2), torch.randn(B, iw, 2), torch.randn(B, iw)
    present = torch.rand(mask) < 0.5
    model = Particles(lambda b, n: (Masked(of(mean), present), z, normal(b, n), normal()))
    _, diagnostics, _ = make("reinforce", iw=iw)(model, x)
    expected = (log_normal(x.unsqueeze(1), mean) * present).sum(-1).mean(1)
    torch.testing.assert_close(diagnostics["loss"]["nll"], -expected)


@pytest.mark.parametrize("iw", [1, K, B])
def test_particles_as_rows_and_rows_as_particles_are_accepted(iw: int) -> None:
    z = torch.randn(B, iw, 2)
    grouped = Rows(lambda r: (normal(r, 5, events=1), z, normal(B, iw, 2), normal(B, iw, 2, events=1)))
    assert make("reinforce", iw=iw)(grouped, torch.zeros(B, 5))[0].shape == (B,)
    flat = Particles(lambda b, n: (normal(b, n, 5), z.flatten(0, 1), normal(b * n, 2), normal(2, events=1)))
    assert make("reinforce", iw=iw)(flat, torch.zeros(B, 5))[0].shape == (B,)


@pytest.mark.parametrize("iw", [1, K, B])
@pytest.mark.parametrize("shape", [(), (1,), (2,), (6,)])
def test_integers_and_one_hot_vectors_are_accepted(shape: Any, iw: int) -> None:
    def integers(rows: int) -> Layers:
        return normal(rows, 5), torch.zeros(rows, *shape), classes(rows, *shape), classes(*shape)

    def vectors(rows: int) -> Layers:
        q, p = OneHotVector(torch.randn(rows, *shape, 6)), OneHotCategorical(logits=torch.randn(*shape, 6))
        return normal(rows, 5), q.sample(), Independent(q, len(shape)) if shape else q, p

    for layers in (integers, vectors):
        assert make("reinforce", iw=iw)(Rows(layers), torch.zeros(B, 5))[0].isfinite().all()


@pytest.mark.parametrize(
    ("iw", "size", "shape", "depth"),
    [
        (1, None, (B, 1, 5, 5), 2),
        *((B, size, (B, 1, 5, 5), 2) for size in (None, 1)),
        *((iw, None, (64, 1, 28, 28), 1) for iw in (1, 64)),
    ],
)
def test_the_other_images_do_not_move_the_loss_of_an_image(iw: int, size: int | None, shape: Any, depth: int) -> None:
    model, x = SigmoidBeliefNetwork(shape[1:], N=20, depth=depth), torch.rand(shape).round()
    losses = []
    for images in (x, torch.cat([x[:1], 1 - x[1:]])):
        torch.manual_seed(0)
        losses.append(make("reinforce", iw=iw)(model, images, particles_per_pass=size)[0])
    torch.testing.assert_close(losses[0][0], losses[1][0])
    assert (losses[0][1:] - losses[1][1:]).abs().min() > 1e-3
