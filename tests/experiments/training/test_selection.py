"""The best parameters are chosen on the validation set, or on the test set with --select_on test."""

import pytest

from ovis.experiments.runs.identity import differences
from ovis.experiments.settings import TrainSettings
from ovis.experiments.training.build import build_run
from ovis.experiments.training.measurements import Measurements

TINY = {"dataset": "digits", "mini": True, "model": "sbm", "N": 4, "depth": 1, "nlayers": 0, "estimator": "ovis-gamma1"}
CHEAP = {"iw": 2, "iw_valid": 2, "iw_test": 2, "grad_samples": 0}


@pytest.mark.parametrize(
    ("options", "metric"),
    [
        ({}, "valid:loss/L_k"),
        ({"select_on": "test"}, "test:loss/L_k"),
        ({"only_train_set": True}, "train:loss/L_k"),
        ({"only_train_set": True, "select_on": "test"}, "train:loss/L_k"),
    ],
)
def test_the_metric_that_chooses_is_measured(options, metric):
    measure = Measurements(build_run(TrainSettings(**TINY, **CHEAP, **options)))
    assert measure.selection == metric
    assert metric in measure(0)


def test_select_on_is_part_of_the_identity():
    assert differences(TrainSettings(select_on="test")) == {"select_on": "test"}
    alone = TrainSettings(only_train_set=True, select_on="test", iw_valid=5, valid_bs=5)
    assert differences(alone) == {"only_train_set": True}
