"""Images at an evaluation: their layout, their files, and that making them does not change the run."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from train_run import train

from ovis.experiments.runs.paths import RunPaths
from ovis.experiments.settings import TrainSettings
from ovis.experiments.training.build import build_run
from ovis.experiments.training.measurements import Measurements
from ovis.experiments.training.sample_images import GAP, image_grid, prior_samples, reconstructions
from ovis.models.distributions import BernoulliVector

SMALL = {
    **{"dataset": "digits", "model": "sbm", "N": 4, "depth": 1, "nlayers": 0, "estimator": "ovis-gamma1", "iw": 2},
    **{"bs": 600, "nsteps": 4, "eval_freq": 1, "max_eval": 12, "iw_valid": 2, "iw_test": 2, "grad_samples": 0},
}


def make(**changes):
    return build_run(TrainSettings(**{**SMALL, **changes}))


def test_image_grid():
    images = torch.zeros(5, 1, 2, 3)
    images[0] = 1
    images[1] = 0.4
    grid = image_grid(images, 3, gap=1, height=1)
    assert grid.shape == (2 * 3 + 1, 3 * 4 + 1)
    assert (grid[1:3, 1:4] == 255).all()
    assert (grid[1:3, 5:8] == 102).all()
    assert (grid[1:3, 9:12] == 0).all()
    assert (grid[4:6, 9:12] == GAP).all()  # the sixth cell is empty
    assert (grid[[0, 3, 6]] == GAP).all()


@pytest.mark.parametrize(("height", "width", "factor"), [(30, 100, 4), (100, 30, 2), (3, 3, 1)])
def test_a_grid_is_enlarged_in_whole_pixels_as_far_as_both_sides_allow(height, width, factor):
    plain = image_grid(torch.rand(5, 1, 2, 3), 3, gap=1, height=1)
    grid = image_grid(torch.rand(5, 1, 2, 3), 3, gap=1, height=height, width=width)
    assert grid.shape == tuple(factor * side for side in plain.shape)
    assert torch.equal(grid[::factor, ::factor], grid[factor - 1 :: factor, factor - 1 :: factor])


class Mirror(nn.Module):
    """A model that reconstructs every image upside down and whose prior samples are black."""

    def forward(self, x):
        assert not self.training
        self.noise = torch.rand(())
        return {"px": BernoulliVector(100 * (2 * x.flip(2) - 1), 3)}

    def sample_from_prior(self, bs):
        return {"px": BernoulliVector(torch.full((bs, 1, 8, 8), -100.0), 3)}


def with_mirror():
    run = make()
    return type(run)(run.settings, run.device, run.splits, Mirror(), run.estimator, run.optimizer)


def test_data_are_above_their_reconstructions():
    x = (torch.rand(12, 1, 8, 8) < 0.5).float()
    run = with_mirror()
    expected = image_grid(torch.cat([x[:10], x[:10].flip(2)]), 10)
    assert torch.equal(reconstructions(run, x), expected)
    assert run.model.training
    few = reconstructions(run, x[:3])
    assert few.shape[1] > few.shape[0]


def test_samples_of_the_prior_are_a_square():
    grid = prior_samples(with_mirror())
    assert grid.shape[0] == grid.shape[1]
    assert set(grid.unique().tolist()) == {0, GAP}


def test_the_mean_is_that_of_one_sample_of_q():
    """Of a model that copies z: the reconstruction is either 0 or 1, with the probability of q."""
    run = make(N=64)
    torch.nn.init.zeros_(run.model.inference_network[0][0].weight)
    torch.nn.init.constant_(run.model.inference_network[0][0].bias, 1.0)  # q(z|x) = sigmoid(1), everywhere
    with torch.no_grad():
        run.model.generative_model[0][0].weight.copy_(100 * torch.eye(64))
        run.model.generative_model[0][0].bias.zero_()
    images = reconstructions(run, torch.zeros(10, 1, 8, 8))
    values, counts = images[images.shape[0] // 2 :].unique(return_counts=True)
    count = dict(zip(values.tolist(), counts.tolist(), strict=True))
    assert count.keys() == {0, 255, GAP}
    share = count[255] / (count[0] + count[255])
    assert share == pytest.approx(torch.tensor(1.0).sigmoid().item(), abs=4 * (0.2 / 640) ** 0.5)


def test_drawing_changes_nothing_and_repeats():
    run = make()
    x = Measurements(run).splits["train"].points
    before, state = torch.get_rng_state(), {n: v.clone() for n, v in run.model.state_dict().items()}
    first = reconstructions(run, x), prior_samples(run)
    torch.rand(3)
    again = reconstructions(run, x), prior_samples(run)
    torch.set_rng_state(before)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    reconstructions(run, x)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(state[name], value) for name, value in run.model.state_dict().items())


def test_they_go_to_a_file_and_to_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, paths = make(), RunPaths(tmp_path)
    train(run, paths)
    board = EventAccumulator(str(tmp_path), size_guidance={"images": 0}).Reload()
    expected = {
        "reconstructions/train": (
            paths.reconstructions,
            reconstructions(run, Measurements(run).splits["train"].points),
        ),
        "prior/samples": (paths.samples, prior_samples(run)),
    }
    assert set(board.Tags()["images"]) == expected.keys()
    for tag, (path, grid) in expected.items():
        assert [event.step for event in board.Images(tag)] == [2, 4]
        last = board.Images(tag)[-1]
        assert path.read_bytes() == last.encoded_image_string
        assert (last.height, last.width) == grid.shape
        shown = np.asarray(Image.open(io.BytesIO(last.encoded_image_string)))
        assert shown.tolist() == grid.tolist()  # of the parameters at the end


def test_data_that_are_not_images_have_no_image_files(tmp_path):
    run = build_run(TrainSettings(dataset="gmm", iw=2, estimator="vimco", nsteps=1, iw_valid=2, iw_test=2, max_eval=5))
    train(run, RunPaths(tmp_path))
    assert not list(tmp_path.glob("*.png"))
