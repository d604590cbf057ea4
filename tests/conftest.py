"""What every test shares."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded():
    """Each test starts from one random state, whatever ran before it."""
    torch.manual_seed(0)
