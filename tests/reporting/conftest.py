"""Fixtures of the report's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic_runs import Folder


@pytest.fixture
def demo(tmp_path: Path) -> Folder:
    """An experiment ``demo`` without runs."""
    folder = tmp_path / "runs" / "demo"
    folder.mkdir(parents=True)
    return Folder(folder)
