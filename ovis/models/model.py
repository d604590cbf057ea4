"""Models that encode each datum once and draw any number of particles from the encoding."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch
from torch import Tensor
from torch.distributions import Distribution

from ovis.models.bernoulli_data import check_first_batch
from ovis.models.distributions import has_rsample
from ovis.models.template import Output, Template
from ovis.nests import Nest, count_rows, map_tensors

__all__ = ["Model"]


class Model(Template):
    """A latent-variable model in three parts: an encoder, q(z|x), and p(x, z).

    Prefer it to :class:`ovis.models.Template` for a new model: x is encoded once per datum, not once per particle, and
    q and p compute all particles at once. A model with Bernoulli latents:

        >>> import torch, ovis
        >>> from torch import nn
        >>> from torch.distributions import Bernoulli
        >>> class Tiny(ovis.Model):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.inference_network, self.decoder = nn.Linear(10, 4), nn.Linear(4, 10)
        ...     def encode(self, x):
        ...         return self.inference_network(x)
        ...     def q(self, h):
        ...         return Bernoulli(logits=h)
        ...     def p(self, z, h):
        ...         return Bernoulli(logits=self.decoder(z)), Bernoulli(logits=torch.zeros(4))
        >>> loss, _, _ = ovis.estimator("ovis-gamma1", iw=16)(Tiny(), torch.ones(5, 10))
        >>> loss.shape
        torch.Size([5])

    A subclass defines :meth:`q` and :meth:`p`, and usually :meth:`encode`; :meth:`target`, if px does not score x
    itself; and :meth:`sample_from_prior`, if samples from the model are needed (wake-sleep). With N particles, the
    encoding reaches q and p with the shape [B, 1, *features], and samples have the shape [B, N, *event]: elementwise
    operations and ``nn.Linear`` broadcast. To concatenate them, expand the encoding:
    ``torch.cat([z, h.expand(*z.shape[:-1], -1)], -1)``. A module with one batch dimension, such as a convolution, needs
    ``module(z.flatten(0, -2)).unflatten(0, z.shape[:-1])``; see ``examples/conv_model.py``.

    Let the names of q's modules contain ``inference_network``: the gradient analysis selects parameters by name.
    """

    if TYPE_CHECKING:  # a subclass may leave out tau
        q: Callable[..., Any]
        p: Callable[..., tuple[Distribution, Any]]
    else:

        def q(self, h: Nest, tau: float = 0.0) -> Any:
            """The distribution q(z|x), which a subclass defines.

            Where layers depend on each other, it is a generator that yields the distribution of a layer and receives
            its sample, as in ``z1 = yield Bernoulli(logits=h)``. The order of the layers is that of z and of the list
            of :meth:`p`.

            Args:
                h: the result of :meth:`encode`, with a dimension for the particles: [B, 1, *features].
                tau: temperature of relaxed samples, 0 for exact ones; may be left out.

            Returns:
                a distribution; a list of distributions, for independent layers; or a generator of them. The batch shape
                of each starts with [B, 1], or with [B, K] where it depends on a sample of K particles; a q that does
                not depend on x is expanded, as in ``loc.expand(*h.shape[:-1], -1)``.
            """
            raise NotImplementedError(f"{type(self).__name__} must define q(h), the distribution of z")

        def p(self, z: Tensor | list[Tensor], h: Nest, tau: float = 0.0) -> tuple[Distribution, Any]:
            """The distributions p(x|z) and p(z), which a subclass defines.

            Args:
                z: the sample, [B, K, *event] with K particles; if there are several layers, the list of their samples.
                h: the result of :meth:`encode`, with a dimension for the particles: [B, 1, *features]. To concatenate
                    it with z, expand it: ``torch.cat([z, h.expand(*z.shape[:-1], -1)], -1)``.
                tau: temperature of relaxed samples, 0 for exact ones; may be left out.

            Returns:
                p(x|z), and p(z): a distribution, or a list with one for each layer, in the order of z.
            """
            raise NotImplementedError(f"{type(self).__name__} must define p(z, h), which returns (px, pz)")

    #: Whether x are Bernoulli variables, which must be in [0, 1]. Estimators see that in p(x|z), but only after
    #: sampling, which may fail with NaN. If it is declared here, a batch is checked before anything is computed from
    #: it, and the runner checks a data set when it is loaded.
    bernoulli: ClassVar[bool] = False

    _takes_tau: ClassVar[tuple[bool, bool]] = (False, False)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        methods = (getattr(cls, name, None) for name in ("q", "p"))
        takes = [callable(method) and "tau" in inspect.signature(method).parameters for method in methods]
        cls._takes_tau = (takes[0], takes[1])

    def encode(self, x: Nest) -> Nest:
        """What q and p need of x, computed once for all particles of a datum; x itself by default.

        Args:
            x: observations, shape [B, *event], or a nest (dict, list, tuple) of such tensors.

        Returns:
            shape [B, *features], or a nest of such tensors, e.g. with a condition or a mask for p.
        """
        return x

    def sample_from_prior(self, bs: int, **kwargs: Any) -> Any:
        """Sample from the model, as :meth:`ovis.models.Template.sample_from_prior`; a subclass defines it.

        Raises:
            NotImplementedError: it is not defined.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no sample_from_prior(bs): define it to return a dict with px, z and pz, where "
            "z is a list with one sample [bs, *event] for each layer"
        )

    @final  # type: ignore[misc]  # nn.Module declares forward as an attribute
    def forward(
        self,
        x: Nest,
        zgrads: bool = False,
        *,
        particles: int | None = None,
        tau: float = 0.0,
        encoded: Nest | None = None,
        z: Sequence[Tensor] | None = None,
        mixed: bool = False,
        **kwargs: Any,
    ) -> Output:
        """Draw particles from q(z|x), or score given ones.

        Args:
            x: observations, shape [B, *event], or a nest of such tensors.
            zgrads: reparameterize the samples.
            particles: N, samples for each datum: everything then has leading shape [B, N]; None: one, shape [B].
            tau: temperature of relaxed discrete samples, 0 for exact ones.
            encoded: the result of :meth:`encode`, if it is already known.
            z: samples to score instead of drawing, each [B, *event], or [B, N, *event] with particles.
            mixed: with ``zgrads``, draw exact samples of the layers that can't be reparameterized.
            kwargs: ignored, because a :class:`Template` may be passed settings of other models.

        Returns:
            ``px``, ``z``, ``qz``, ``pz``, see :class:`Output`.

        Raises:
            ValueError: a layer that can't be reparameterized, unless ``mixed``; a q without a row for each datum;
                Bernoulli observations outside [0, 1], in the model's first batch.
        """
        if self.bernoulli:
            check_first_batch(self, self.target(x))
        h = self.encode(x) if encoded is None else encoded
        lead: tuple[int, ...] = (count_rows(x),)
        if particles is not None:
            h, lead = map_tensors(_with_particles, h), (*lead, particles)
        tau = tau if zgrads else 0.0
        samples, qz = self.infer(h, lead, zgrads, tau, z)
        if zgrads and not mixed:
            for layer, q in enumerate(qz):
                if not has_rsample(q):
                    raise ValueError(self._no_rsample(layer, q))
        px, pz = self.generate(samples, h, tau)
        return {"px": px, "z": samples, "qz": qz, "pz": pz}

    def infer(
        self, h: Nest, lead: tuple[int, ...], zgrads: bool, tau: float, given: Sequence[Tensor] | None
    ) -> tuple[list[Tensor], list[Distribution]]:
        """Sample every stochastic layer of :meth:`q`, or use ``given`` samples.

        Args:
            h: the encoding, shape [B, *features], or [B, 1, *features] with particles.
            lead: leading dimensions of the samples, [B] or [B, N].
            zgrads: reparameterize the layers that can be reparameterized.
            tau: temperature of relaxed discrete samples, 0 for exact ones.
            given: samples to score instead of drawing, each [*lead, *event].

        Returns:
            samples, each [*lead, *event], and distributions q(z_l | ...), the layer nearest to x first.
        """
        qz: list[Distribution] = []
        samples: list[Tensor] = []

        def sample(q: Any) -> Tensor:
            layer = len(samples)
            if given is not None and layer >= len(given):
                raise ValueError(f"{type(self).__name__} has more layers than the {len(given)} given samples")
            z = given[layer] if given is not None else self._draw(layer, q, lead, zgrads)
            qz.append(q)
            samples.append(z)
            return z

        layers = self.q(h, tau) if self._takes_tau[0] else self.q(h)
        if isinstance(layers, Generator):
            try:
                q = next(layers)
                while True:
                    q = layers.send(sample(q))
            except StopIteration:
                pass
        else:
            for q in layers if isinstance(layers, list | tuple) else [layers]:
                sample(q)
        return samples, qz

    def generate(self, z: Sequence[Tensor], h: Nest, tau: float) -> tuple[Distribution, list[Distribution]]:
        """The distributions of :meth:`p` at given samples.

        Args:
            z: the samples of each layer, the one nearest to x first, each [*lead, *event].
            h: the encoding, as for :meth:`infer`; None for samples from the prior.
            tau: temperature of relaxed discrete samples, 0 for exact ones.

        Returns:
            p(x|z), and p(z_l | ...) of each layer.

        Raises:
            ValueError: :meth:`p` did not return a pair.
        """
        samples = z[0] if len(z) == 1 else list(z)
        result: Any = self.p(samples, h, tau) if self._takes_tau[1] else self.p(samples, h)
        if not isinstance(result, tuple) or len(result) != 2:
            given = f"a tuple of {len(result)}" if isinstance(result, tuple) else type(result).__name__
            raise ValueError(
                f"{type(self).__name__}.p must return the pair (px, pz), with pz a list if there are several layers; "
                f"got {given}"
            )
        px, pz = result
        return px, list(pz) if isinstance(pz, list | tuple) else [pz]

    def _draw(self, layer: int, q: Any, lead: tuple[int, ...], zgrads: bool) -> Tensor:
        """Samples [*lead, *event] of a layer; the parameters of q are shared by the particles, [B, 1]."""
        name, dims = type(self).__name__, len(lead)
        if not isinstance(q, Distribution):
            raise ValueError(f"{name}.q must give distributions (torch.distributions), got {type(q).__name__}")
        batch = q.batch_shape
        if tuple(batch[:dims]) not in (lead, (lead[0], 1)[:dims], (1, 1)[:dims]):
            without_x = len(batch) < dims or batch[0] == 1
            raise ValueError(
                f"{name}.q: layer {layer} ({type(q).__name__}) has batch shape {tuple(batch)}; it must start with "
                f"{(lead[0], *(1,) * (dims - 1))}, one row for each datum, or {tuple(lead)}"
                + ("; if q does not depend on x, expand it, as in loc.expand(*h.shape[:-1], -1)" if without_x else "")
            )
        if batch[:dims] != lead:
            q = q.expand(torch.Size(lead) + batch[dims:])
        z: Tensor = q.rsample() if zgrads and has_rsample(q) else q.sample()
        return z

    def _no_rsample(self, layer: int, q: Distribution) -> str:
        return (
            f"{type(self).__name__}: layer {layer} ({type(q).__name__}) can't be reparameterized: use a score-function "
            "estimator, relaxed samples (tau > 0) if the model has them, or, if other layers can be reparameterized, "
            "an estimator for both, such as vimco+iwae"
        )


def _with_particles(tensor: Tensor) -> Tensor:
    return tensor.unsqueeze(1)
