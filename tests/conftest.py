"""What every test shares: the image data folder, single-threaded torch, no network."""

import os
from pathlib import Path

import pytest
import torch

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def image_data() -> Path:
    """The folder of image data named by FL_AUDIT_TEST_DATA; skips with the reason where there is none."""
    folder = os.environ.get("FL_AUDIT_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("FL_AUDIT_TEST_DATA names no folder of image data")
    return Path(folder)
