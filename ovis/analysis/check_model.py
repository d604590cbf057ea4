"""One report on a model: shapes, graphs, normalization, what q and p depend on, which estimators fit."""

from __future__ import annotations

import copy
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.utils import _pytree as pytree

from ovis.analysis.enumeration import NotEnumerableError, joint_states, latent_states, log_densities
from ovis.analysis.module_state import batch_norm_modules, no_argument_validation, restored_buffers
from ovis.analysis.seeding import own_seed
from ovis.estimators.config import estimator
from ovis.estimators.ids import ESTIMATORS, EstimatorFacts, parse_estimator
from ovis.estimators.sampling import draw, encode, observations, score, unwrapped
from ovis.estimators.types import Particles
from ovis.models.bernoulli_data import bernoulli_values
from ovis.models.distributions import has_known_density
from ovis.models.model import Model
from ovis.nests import Nest, count_rows, first_tensor, map_tensors, rows_of, tensors_of

__all__ = ["ModelCheck", "check_model"]

#: Data and particles of each pass.
ROWS, PARTICLES = 8, 5

#: Largest number of joint values of z, and of binary variables of x, that are enumerated.
MAX_STATES, MAX_BITS = 2**12, 8

#: Largest error of a sum of probabilities.
SUM_ERROR = 1e-3

#: Rounding errors of log-densities, in units of the precision.
ROUNDING = 50

#: Of parameters in a copy of the model, relative to their size.
PERTURBATION = 0.01

AT_PRESENT = "at the present parameters, but not at others near them, as where a weight is initialized to 0"

PX, PZ, QZ = "log p(x|z)", "log p(z)", "log q(z|x)"


@dataclass(frozen=True)
class ModelCheck:
    """The result of :func:`check_model`; ``print`` it for a report.

    Attributes:
        model: name of the model's class.
        facts: what was found, one sentence for each subject.
        estimators: id -> why the estimator can't be used with this model; empty: it can.
        notes: what may be intended, or could not be checked.
        problems: what is wrong, with the place and the remedy.
    """

    model: str
    facts: dict[str, str] = field(default_factory=dict)
    estimators: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether there is no problem."""
        return not self.problems

    def __str__(self) -> str:
        lines = [f"  {name:<14}  {text}" for name, text in self.facts.items()]
        fitting = [name for name, reason in self.estimators.items() if not reason]
        if fitting:
            lines.append(f"  {'fitting':<14}  {', '.join(fitting)}")
        reasons: dict[str, list[str]] = {}
        for name, reason in self.estimators.items():
            if reason:
                reasons.setdefault(reason, []).append(name)
        lines += [f"  {'not fitting':<14}  {', '.join(names)}: {reason}" for reason, names in reasons.items()]
        lines += [f"  {'note':<14}  {text}" for text in self.notes]
        lines += [f"  {'PROBLEM':<14}  {text}" for text in self.problems]
        count = len(self.problems)
        lines.append(f"  {'verdict':<14}  " + (f"{count} problem{'s' * (count > 1)}" if count else "no problem found"))
        return "\n".join([self.model, *lines])


def check_model(model: nn.Module, x: Nest) -> ModelCheck:
    """Check a model on a few data, and report what was found in sentences.

    Use it on every new model, before the first training. It draws a few particles and reports

    - the shapes and types of x, of its encoding, of the samples and of the distributions;
    - for each layer, whether its samples can be reparameterized, and whether exact ones carry no graph;
    - the sums of q(z|x) and p(z) over all values of z, if these are discrete and at most 4,096, and of p(x|z) over all
      binary x of at most 8 variables: each must be 1;
    - whether q depends on x, p on each layer of z, and neither p(x|z) nor p(z) on the x that is scored;
    - which log-density each parameter gets a gradient from;
    - whether the result for a datum depends on the other data of the batch;
    - for one estimator of each kind, whether it can be used, and otherwise the reason that it gives itself.

    A model that can't be run has its error as its one problem. The model is checked in its present mode; its
    parameters, gradients and buffers, and torch's global random state, are left as they are.

        >>> import ovis
        >>> from ovis.models import SigmoidBeliefNetwork
        >>> report = ovis.check_model(SigmoidBeliefNetwork((3,), N=2, depth=1), torch.eye(3))
        >>> report.passed, report.facts["sums"]
        (True, 'over the 4 values of z: q(z|x) 1, p(z) 1; over the 8 values of x: p(x|z) 1')

    Args:
        model: a :class:`ovis.models.Model` or :class:`ovis.models.Template`, or a wrapper around it.
        x: a batch, shape [B, *event], or a dict, list or tuple of such tensors; its first 8 data are used. With fewer
            than two different data some checks are left out.

    Returns:
        the report; ``report.passed`` is True where it has no problems.

    See also:
        :func:`ovis.analysis.oracle.check_estimator` for the gradient of an estimator on this model,
        :func:`ovis.evaluate` for its bound on data.
    """
    model = unwrapped(model)
    report = ModelCheck(type(model).__name__)
    try:
        x = rows_of(x, slice(min(ROWS, count_rows(x))))
        device = first_tensor(x).device
        with own_seed(0, device), restored_buffers(model), torch.enable_grad():
            particles = _draw(model, x)
    except Exception as error:  # whatever the model raises is what is reported
        report.problems.append(f"the model can't be run: {_reason(error)}")
        return report
    checker = _Checker(model, x, particles, report)
    with own_seed(0, device), restored_buffers(model), torch.enable_grad():
        checker.run("shapes", checker.shapes, checker.samples, checker.prior)
        checker.run("gradients", checker.gradients)
        with torch.no_grad(), no_argument_validation():
            if checker.finite():  # otherwise what follows can't be compared
                checker.run("dependence", checker.noise, checker.q_of_x, checker.p_of_z, checker.p_of_x)
                checker.run("sums", checker.sums)
                checker.run("batch", checker.other_data)
        checker.run("estimators", checker.estimators)
    return report


def _draw(model: nn.Module, x: Nest, reparameterize: bool = False) -> Particles:
    """Particles with the same random numbers at every call; layers that can't be reparameterized are drawn exactly."""
    with own_seed(1, first_tensor(x).device), restored_buffers(model):
        encoded = encode(model, x)
        return draw(model, x, PARTICLES, encoded=encoded, reparameterize=reparameterize, mixed=True)


def _reason(error: Exception) -> str:
    """The first line of an error; one that ovis did not raise, with its place in the model's code."""
    text = (str(error).strip() or "no message").splitlines()[0]
    frames = traceback.extract_tb(error.__traceback__)
    folders = [str(Path(torch.__file__).parent), str(Path(__file__).parents[1])]
    own = [frame for frame in frames if not frame.filename.startswith(tuple(folders))]
    if frames[-1].filename.startswith(folders[1]) or not own:
        return text
    return f"{type(error).__name__} in {own[-1].name} ({Path(own[-1].filename).name}:{own[-1].lineno}): {text}"


class _Checker:
    """The parts of :func:`check_model`, which add to its report.

    Args:
        model: the model, unwrapped.
        x: a few data.
        particles: the result of :func:`_draw`.
        report: the report.
    """

    def __init__(self, model: nn.Module, x: Nest, particles: Particles, report: ModelCheck):
        self.model, self.x, self.report, self.particles = model, x, report, particles
        self.shape = (particles.log_px.shape[0], PARTICLES)
        self.rows = self.shape[0]
        self.observed = observations(model, x)
        self.z = [z.detach() for z in particles.z]
        self.repeatable = True
        self.target_is_in_x = any(leaf is self.observed for leaf in tensors_of(x))
        self.sums_of_x: float | None = None  # the sum of p(x|z) over x, where it was computed with p given each x

    def run(self, name: str, *checks: Callable[[], None]) -> None:
        """Run checks; what the model raises in one of them becomes a note."""
        for check in checks:
            try:
                with restored_buffers(self.model):
                    check()
            except Exception as error:  # e.g. a model that rejects other data or samples than its own
                self.note(f"{name}: not everything could be checked: {_reason(error)}")

    # ------------------------------------------------------------------------------------------------------- facts

    def shapes(self) -> None:
        facts, output = self.report.facts, self.particles.output
        facts["x"] = f"{self.rows} data: {_shapes(self.x, 'x')}"
        if isinstance(self.model, Model):
            facts["encoding"] = f"{_shapes(self.model.encode(self.x), 'h')}, once per datum"
        else:
            facts["encoding"] = f"none: {self.report.model} is run on x repeated for every particle (see ovis.Model)"
        facts["p(x|z)"] = f"{_name(output['px'])} of {_shape(self.observed)}"

    def samples(self) -> None:
        """Which layers are reparameterized under ``zgrads``, and that none is without."""
        try:
            reparameterized = [z.requires_grad for z in _draw(self.model, self.x, reparameterize=True).z]
        except (ValueError, NotImplementedError):
            reparameterized = [False] * len(self.z)
        lead = 2 if isinstance(self.model, Model) else 1
        layers = []
        for layer, z in enumerate(self.particles.z):
            kind = "can be reparameterized" if reparameterized[layer] else "exact samples only"
            size = f"[{', '.join(map(str, z.shape[lead:]))}]"
            layers.append(f"layer {layer} {_name(self.qz(layer))}, samples {size} {_dtype(z)}, {kind}")
            if z.requires_grad:
                self.problem(
                    f"layer {layer} ({_name(self.qz(layer))}): samples carry a graph though zgrads is False: use "
                    "q.rsample() if zgrads, else q.sample()"
                )
        self.report.facts["q(z|x)"] = "; ".join(layers)

    def prior(self) -> None:
        names = [_name(p) for p in self.particles.output["pz"]]
        text = "; ".join(f"layer {layer} {name}" for layer, name in enumerate(names))
        self.report.facts["p(z)"] = f"{text}; {self._samples_from_prior()}"

    def _samples_from_prior(self) -> str:
        if not hasattr(self.model, "sample_from_prior"):
            return "no sample_from_prior"
        try:
            with torch.no_grad(), restored_buffers(self.model):
                dream: Any = self.model.sample_from_prior(3)  # type: ignore[operator]
                x = dream["px"].sample()
                shapes = [("px", x.shape[1:], self.observed.shape[1:], len(x))]
                lead = 2 if isinstance(self.model, Model) else 1
                if len(dream["z"]) != len(self.z) or len(dream["pz"]) != len(self.z):
                    raise ValueError(f"z and pz must have {len(self.z)} layers, as those of forward")
                for layer, (z, own) in enumerate(zip(dream["z"], self.z, strict=True)):
                    shapes.append((f"z of layer {layer}", z.shape[1:], own.shape[lead:], len(z)))
                for name, event, expected, rows in shapes:
                    if rows != 3 or event != expected:
                        raise ValueError(
                            f"{name} has shape {(rows, *event)} for bs = 3, and must have {(3, *expected)}"
                        )
        except NotImplementedError:
            return "no sample_from_prior"
        except Exception as error:  # whatever the model raises is what is reported
            self.problem(f"sample_from_prior(bs): {_reason(error)}")
            return "sample_from_prior is wrong"
        return "sample_from_prior draws from the model"

    # ---------------------------------------------------------------------------------------------------- problems

    def finite(self) -> bool:
        """Whether the log-densities are finite, but for some particles of density 0."""
        before = len(self.report.problems)
        for name, value in self._densities(self.particles).items():
            if value.isnan().any():
                self.problem(f"{name} is NaN: look for a logarithm or a division of 0, or x out of range")
            elif (value == torch.inf).any():
                self.problem(f"{name} is infinite: a scale is 0, or its sample is one point")
            elif (value == -torch.inf).all(1).any():
                self.problem(f"{name} is -inf for all particles of a datum: its support does not contain the value")
        return len(self.report.problems) == before

    def gradients(self) -> None:
        """Which log-density each parameter gets a gradient from."""
        parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        parts: dict[str, list[str]] = {name: [] for name in parameters}
        zero: dict[str, bool] = {}
        # drawn here, as buffers that are restored in between could not be differentiated
        particles = draw(self.model, self.x, PARTICLES, encoded=encode(self.model, self.x), mixed=True)
        for part, value in self._densities(particles).items():
            if not parameters or not value.requires_grad:
                continue
            grads: tuple[Tensor | None, ...] = torch.autograd.grad(
                value.sum(), list(parameters.values()), retain_graph=True, allow_unused=True
            )
            for name, grad in zip(parameters, grads, strict=True):
                if grad is None:
                    continue
                grad = grad.to_dense() if grad.is_sparse else grad
                parts[name].append(part)
                zero[name] = zero.get(name, True) and not grad.any()
                if not grad.isfinite().all() and value.isfinite().all():
                    self.problem(f"the gradient of {part} with respect to {name} is not finite")
        sentences = [
            f"{part} trains {_modules([name for name in parts if part in parts[name]], parts)}"
            for part in (PX, PZ, QZ)
            if any(part in found for found in parts.values())
        ]
        frozen = sum(not p.requires_grad for p in self.model.parameters())
        self.report.facts["gradients"] = ("; ".join(sentences) or "no parameters") + (
            f"; {frozen} parameters are frozen" if frozen else ""
        )
        unused = [name for name, found in parts.items() if not found]
        if unused:
            self.problem(
                f"no gradient for {_modules(unused, parts)}: neither p nor q uses it, or it was detached; use it, or "
                "call requires_grad_(False)"
            )
        if still := [name for name in zero if zero[name]]:
            self.note(f"the gradient of {_modules(still, parts)} is 0 for these data and particles")

    def noise(self) -> None:
        """Whether the log-densities of given samples depend on other random numbers, as with dropout."""
        first, second = (self._scored(self.x, self.z, seed=seed) for seed in (1, 2))
        if first is None or second is None:
            return
        self.repeatable = not any(_differ(a, b) for a, b in zip(first, second, strict=True))
        if not self.repeatable:
            self.note(
                "p or q is random for given x and z, as with dropout in training mode: call model.eval() to check the "
                "sums and what p depends on"
            )

    def q_of_x(self) -> None:
        other = self._other(self.x)
        if other is None:
            self.note("all data are equal: whether q depends on x can't be checked; give different ones")
            return

        def depends(model: nn.Module) -> bool:
            first, second = (_draw(model, x) for x in (self.x, other))
            log_qz = self._mixed({**first.output, "qz": second.output["qz"]}, z=first.z).log_qz
            return _differ(log_qz, first.log_qz)

        found = depends(self.model)
        self.fact("dependence", "q depends on x" if found else "q does not depend on x")
        if not found and depends(_perturbed(self.model)):
            self.note(f"q(z|x) is the same for all x {AT_PRESENT}")
        elif not found:
            self.problem("q(z|x) ignores x: it is the same for other data; use the encoding in q")

    def p_of_z(self) -> None:
        """That each layer has an effect on p(x|z) or on p of another layer."""
        if not self.repeatable:
            return
        ignored = self._ignored(self.model)
        self.fact("dependence", f"p does not depend on {', '.join(ignored)}" if ignored else "p depends on z")
        still = self._ignored(_perturbed(self.model)) if ignored else []
        others = ", and so is p of the other layers" if len(self.z) > 1 else ""
        for name in ignored:
            if name in still:
                self.problem(f"p ignores {name}: p(x|z) is the same for other samples{others}; use the sample in p")
            else:
                self.note(f"p is the same for all samples of {name} {AT_PRESENT}")

    def _ignored(self, model: nn.Module) -> list[str]:
        """What has no effect on p: layers, or z as a whole for a model that draws its samples."""
        reference = self._scored(self.x, self.z, model)
        if reference is None:  # the particles of a datum differ in all layers
            particles = _draw(model, self.x)
            samples = [z.detach().unflatten(0, self.shape) for z in particles.z]
            varied = any(bool((z != z[:, :1]).any()) for z in samples)
            log_px = particles.log_px.detach()
            return ["z"] if varied and not _differ(log_px, log_px[:, :1].expand_as(log_px)) else []
        ignored = []
        for layer, z in enumerate(self.z):
            moved = z.roll((1, 1), (0, 1))
            if torch.equal(moved, z):  # all samples are equal
                continue
            result = self._scored(self.x, [*self.z[:layer], moved, *self.z[layer + 1 :]], model)
            assert result is not None
            others = [index for index in range(len(self.z)) if index != layer]
            if not _differ(result[0], reference[0]) and not _differ(result[1][..., others], reference[1][..., others]):
                ignored.append(f"layer {layer} ({_name(self.qz(layer))})")
        return ignored

    def p_of_x(self) -> None:
        """That p does not depend on the x that it scores."""
        if not self.repeatable or not isinstance(self.model, Model):
            return
        other = self._other(self.x, of_target=True)
        if other is None:
            return
        output = self.model(other, particles=PARTICLES, z=self.z)
        mixed = self._mixed(self.particles.output | {"px": output["px"], "pz": output["pz"]})
        sees = _differ(mixed.log_px, self.particles.log_px)
        prior = _differ(mixed.log_pz, self.particles.log_pz)
        if not self.target_is_in_x:
            if sees or prior:
                self.fact("dependence", "p depends on x: right if it is a condition that px does not score")
            return
        if prior:
            self.problem(
                "p(z) depends on the x that p(x|z) scores, so p(x, z) is no density: give it the condition alone"
            )
        self.sums_of_x = self._sum_over_x(self._given_each_x) if sees else None
        if sees and self.sums_of_x is None:
            self.note(
                "p(x|z) depends on the x that it scores, through h: right only if it is autoregressive, that is, if "
                "each part of x depends on earlier parts alone; otherwise give p the condition alone"
            )
        elif sees and self.sums_of_x is not None and abs(self.sums_of_x - 1) > SUM_ERROR:
            self.problem(
                f"p(x|z) depends on the x that it scores, through h, and sums to {self.sums_of_x:.4g} over all x: give "
                "p the condition alone"
            )

    def sums(self) -> None:
        """The sums over all values of z and of x."""
        sentences = []
        if not self.repeatable:
            return
        try:
            count, log_pz, log_qz = self._log_densities_of_states()
            totals = {"q(z|x)": _total(log_qz), "p(z)": _total(log_pz)}
            sentences.append(
                f"over the {count:,} values of z: " + ", ".join(f"{name} {_sum(v)}" for name, v in totals.items())
            )
            for name, value in totals.items():
                if abs(value - 1) > SUM_ERROR:
                    self.problem(
                        f"{name} sums to {value:.4g} over all {count:,} values of z, not 1: its log_prob is not "
                        "normalized" + (", or it has values that q does not draw" if name == "p(z)" else "")
                    )
        except NotEnumerableError as error:
            sentences.append(f"not over z ({error})")
            self._note_own_densities("qz", "pz")
        total = self.sums_of_x if self.sums_of_x is not None else self._sum_over_x(self._given_this_x)
        if total is None:
            sentences.append("not over x")
            self._note_own_densities("px")
        else:
            sentences.append(f"over the {2 ** self.observed[0].numel()} values of x: p(x|z) {_sum(total)}")
            if abs(total - 1) > SUM_ERROR and self.sums_of_x is None:
                self.problem(f"p(x|z) sums to {total:.4g} over all binary x, not 1: its log_prob is not normalized")
        self.report.facts["sums"] = "; ".join(sentences)

    def _log_densities_of_states(self) -> tuple[int, Tensor, Tensor]:
        """n, log p(z) [n] and log q(z|x) [n] of the first datum, for all values of z.

        Raises:
            NotEnumerableError: they can't be enumerated.
        """
        if isinstance(self.model, Model):
            datum = rows_of(self.x, slice(1))
            states = latent_states(self.model, datum)
            if (count := len(states[0])) > MAX_STATES:
                raise NotEnumerableError(f"the latents have {count:,} values")
            _, log_pz, log_qz = log_densities(self.model, datum, states)
            return count, log_pz.sum(-1), log_qz.sum(-1)
        if len(self.z) > 1:
            raise NotEnumerableError("of several layers, only an ovis.Model scores given samples")
        (values,) = joint_states([self.qz(0)], [self.z[0][0]])
        if (count := len(values)) > 2**MAX_BITS:
            raise NotEnumerableError(f"the latents have {count:,} values")
        scored = [self._mixed(self.particles.output, z=[value.expand_as(self.z[0])]) for value in values]
        log_pz = torch.stack([particles.log_pz[0, 0, 0] for particles in scored])
        return count, log_pz, torch.stack([particles.log_qz[0, 0, 0] for particles in scored])

    def _note_own_densities(self, *keys: str) -> None:
        """Densities of the user's own that could not be summed."""
        for key in keys:
            found = self.particles.output[key]
            for distribution in found if isinstance(found, list | tuple) else [found]:
                if not has_known_density(distribution):
                    self.note(f"{key}: the log_prob of {_name(distribution)} may not be normalized: it was not summed")

    def other_data(self) -> None:
        """That the result for a datum, and a particle, does not depend on the others."""
        found = self._mixed_particles() if isinstance(self.model, Model) else self._mixed_data()
        norms = {id(module) for module in batch_norm_modules(self.model)}
        names = [name or "the model" for name, module in self.model.named_modules() if id(module) in norms]
        remedy = (
            f"batch normalization in training mode ({', '.join(names)}): use layernorm, or model.eval()"
            if names
            else "look for an operation over dimension 0 (or 1, the particles), such as a mean or a softmax"
        )
        for (subject, others), parts in found.items():
            verb = "depends" if len(parts) == 1 else "depend"
            self.problem(f"{' and '.join(parts)} of a {subject} {verb} on the other {others}: {remedy}")
        if self.rows > 1 and not found:
            self.report.facts["batch"] = "a datum's result does not depend on the other data"
        elif self.rows == 1:
            self.note("one datum: whether it depends on others can't be checked")

    def _mixed_particles(self) -> dict[tuple[str, str], list[str]]:
        """Which log-densities of the first particle of the first datum change with what else."""
        x = self.x
        if self.rows > 1 and (other := self._other(x)) is not None:
            x = _after_first(self.x, other)
        changes = {
            ("particle", "particles of its datum"): (self.x, [_move_particles(z) for z in self.z]),
            ("datum", "data of the batch"): (x, [torch.cat([z[:1], z[1:].roll(1, 1)]) for z in self.z]),
        }
        found: dict[tuple[str, str], list[str]] = {}
        reference = self._scored(self.x, self.z)
        assert reference is not None
        for subject, (data, z) in changes.items():
            result = self._scored(data, z)
            assert result is not None
            for name, a, b in zip((PX, PZ, QZ), result, reference, strict=True):
                if _differ(a[0, 0], b[0, 0]):
                    found.setdefault(subject, []).append(name)
        return found

    def _mixed_data(self) -> dict[tuple[str, str], list[str]]:
        """Which log-densities of the first datum change with the other data, for a model that draws its samples."""
        other = None if self.rows == 1 else self._other(self.x)
        if other is None:
            return {}
        result = _draw(self.model, _after_first(self.x, other))
        changed = []
        log_qz = self._mixed(self.particles.output | {"qz": result.output["qz"]}).log_qz
        if _differ(log_qz[0, :, 0], self.particles.log_qz[0, :, 0]):
            changed.append(QZ)
        equal = all(torch.equal(a[:PARTICLES], b[:PARTICLES]) for a, b in zip(result.z, self.z, strict=True))
        if equal:  # the same random numbers
            pairs = {PX: (result.log_px, self.particles.log_px), PZ: (result.log_pz, self.particles.log_pz)}
            changed += [name for name, (a, b) in pairs.items() if _differ(a[0], b[0])]
        return {("datum", "data of the batch"): changed} if changed else {}

    def estimators(self) -> None:
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        for name in _ids():
            reason = ""
            try:
                with restored_buffers(self.model):
                    loss, _, _ = estimator(name, iw=4)(self.model, self.x, return_diagnostics=False)
                    if loss.requires_grad:
                        torch.autograd.grad(loss.mean(), parameters, allow_unused=True)
            except Exception as error:  # whatever it raises is what is reported
                reason = _reason(error)
            self.report.estimators[name] = reason
        if all(self.report.estimators.values()):
            self.problem("no estimator can be used with this model")

    # ----------------------------------------------------------------------------------------------------- helpers

    def problem(self, text: str) -> None:
        self.report.problems.append(text)

    def note(self, text: str) -> None:
        self.report.notes.append(text)

    def fact(self, name: str, text: str) -> None:
        facts = self.report.facts
        facts[name] = f"{facts[name]}; {text}" if name in facts else text

    def qz(self, layer: int) -> Distribution:
        q: Distribution = self.particles.output["qz"][layer]
        return q

    @staticmethod
    def _densities(particles: Particles) -> dict[str, Tensor]:
        return {PX: particles.log_px, PZ: particles.log_pz.sum(-1), QZ: particles.log_qz.sum(-1)}

    def _mixed(
        self, output: dict[str, Any], observed: Tensor | None = None, z: list[Tensor] | None = None
    ) -> Particles:
        """Score samples and observations, by default those of the check, by distributions of any origin."""
        observed = self.observed if observed is None else observed
        scored = observed.unsqueeze(1) if isinstance(self.model, Model) else observed.repeat_interleave(PARTICLES, 0)
        return score(output | {"z": self.z if z is None else z}, scored, self.shape)

    def _scored(
        self, x: Nest, z: list[Tensor], model: nn.Module | None = None, seed: int = 1
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        """The three log-densities of given samples; None for a model that need not score them."""
        model = self.model if model is None else model
        if not isinstance(model, Model):
            return None
        with own_seed(seed, first_tensor(x).device), restored_buffers(model):
            output = model(x, particles=z[0].shape[1], z=z)
        lead = (z[0].shape[0], z[0].shape[1])
        particles = score(dict(output), observations(model, x).unsqueeze(1), lead)
        return particles.log_px, particles.log_pz, particles.log_qz

    def _other(self, x: Nest, of_target: bool = False) -> Nest | None:
        """Other data of the same kind, the rows in another order; None if they are equal.

        Args:
            x: the data.
            of_target: change only what p(x|z) scores, if that is a tensor of x.
        """

        def is_changed(leaf: Tensor) -> bool:
            return leaf is self.observed or not of_target or not self.target_is_in_x

        rolled = map_tensors(lambda leaf: leaf.roll(1, 0) if is_changed(leaf) else leaf, x)
        if not _equal(rolled, x):
            return rolled
        changed = map_tensors(
            lambda leaf: _another(leaf) if leaf is self.observed or not self.target_is_in_x else leaf, x
        )
        return None if _equal(changed, x) else changed

    def _sum_over_x(self, log_px: Callable[[Tensor], Tensor | None]) -> float | None:
        """The sum of p(x|z) over all binary x, from log p(x|z) of each, [n]; None if x is not binary or too large."""
        px, event = self.particles.output["px"], self.observed.shape[1:]
        bits = event.numel()
        binary = bool(((self.observed == 0) | (self.observed == 1)).all())
        scored = bernoulli_values(px, self.observed) if has_known_density(px) else self.observed
        if not 0 < bits <= MAX_BITS or not binary or scored is not self.observed or _is_continuous(px):
            return None
        values = torch.cartesian_prod(*[torch.arange(2, device=self.observed.device)] * bits).view(-1, *event)
        result = log_px(values.to(self.observed.dtype))
        return None if result is None else _total(result)

    def _given_this_x(self, values: Tensor) -> Tensor:
        """log p(x|z) of each value, by the px of the first particle of the first datum."""
        rows = [self._mixed(self.particles.output, value.expand_as(self.observed)).log_px[0, 0] for value in values]
        return torch.stack(rows)

    def _given_each_x(self, values: Tensor) -> Tensor | None:
        """log p(x|z) of each value, by the px that the model returns for this x and the first particle."""
        count = len(values)
        x = map_tensors(
            lambda leaf: values if leaf is self.observed else leaf[:1].expand(count, *leaf.shape[1:]), self.x
        )
        z = [each[:1, :1].expand(count, 1, *each.shape[2:]) for each in self.z]
        result = self._scored(x, z)
        return None if result is None else result[0][:, 0]


def _ids() -> list[str]:
    """One id of each kind of estimator, as the README writes them."""

    def of(facts: EstimatorFacts) -> Iterable[str]:
        if facts.grammar is None:
            return [min((facts.family, *facts.aliases), key=len)]
        found: dict[object, str] = {}
        for name in facts.grammar.examples:
            known = parse_estimator(name)
            if known.family == facts.family:
                found.setdefault(known.config.get("pathwise"), name)
        return found.values()

    return [name for facts in ESTIMATORS.values() for name in of(facts)]


def _modules(names: list[str], all_names: Iterable[str]) -> str:
    """The parameters, by the largest modules that consist of them alone."""
    others = [name for name in all_names if name not in names]
    result: dict[str, None] = {}
    for name in names:
        parts = name.split(".")
        modules = [".".join(parts[:depth]) for depth in range(1, len(parts))]
        whole = (module for module in modules if not any(other.startswith(f"{module}.") for other in others))
        result[next(whole, name)] = None
    return ", ".join(result)


@torch.no_grad()
def _perturbed(model: nn.Module) -> nn.Module:
    """A copy of the model with slightly different parameters."""
    model = copy.deepcopy(model)
    for parameter in model.parameters():
        if parameter.is_floating_point() and parameter.requires_grad:
            parameter.add_(torch.randn_like(parameter) * PERTURBATION * (1 + parameter.abs()))
    return model


def _move_particles(z: Tensor) -> Tensor:
    """The first datum with its particles, but for the first, in another order."""
    return torch.cat([torch.cat([z[:1, :1], z[:1, :1].expand_as(z[:1, 1:])], 1), z[1:]])


def _after_first(x: Nest, other: Nest) -> Nest:
    """The first datum of x, and the others of ``other``."""
    return pytree.tree_map(lambda leaf, changed: torch.cat([leaf[:1], changed[1:]]), x, other)


def _another(leaf: Tensor) -> Tensor:
    """Other values of the same kind; integers, which may be indices, are left as they are."""
    if leaf.dtype == torch.bool:
        return ~leaf
    if not leaf.is_floating_point():
        return leaf
    return 1 - leaf if bool(((leaf >= 0) & (leaf <= 1)).all()) else leaf + 1


def _equal(first: Nest, second: Nest) -> bool:
    return all(torch.equal(a, b) for a, b in zip(tensors_of(first), tensors_of(second), strict=True))


def _differ(first: Tensor, second: Tensor) -> bool:
    """Whether log-densities differ by more than rounding errors."""
    first, second = first.detach(), second.detach()
    precision = ROUNDING * torch.finfo(first.dtype).eps
    return not torch.allclose(first, second, rtol=precision, atol=precision, equal_nan=True)


def _total(log_probability: Tensor) -> float:
    return log_probability.double().logsumexp(0).exp().item()


def _sum(value: float) -> str:
    return "1" if abs(value - 1) <= SUM_ERROR else f"{value:.4g}"


def _is_continuous(px: Any) -> bool:
    try:
        return not px.support.is_discrete
    except (NotImplementedError, AttributeError):
        return False


def _name(distribution: Any) -> str:
    inner = [getattr(distribution, name, None) for name in ("base_dist", "distribution")]
    names = [_name(part) for part in inner if isinstance(part, Distribution)]
    return f"{type(distribution).__name__}({', '.join(names)})" if names else type(distribution).__name__


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _shape(tensor: Tensor) -> str:
    return f"[{', '.join(map(str, tensor.shape))}]"


def _shapes(nest: Nest, name: str) -> str:
    if isinstance(nest, Tensor):
        return f"{name} {_shape(nest)} {_dtype(nest)}"
    leaves = pytree.tree_leaves_with_path(nest)
    return ", ".join(f"{name}{pytree.keystr(path)} {_shape(leaf)} {_dtype(leaf)}" for path, leaf in leaves)
