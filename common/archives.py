"""Reads the files of MNIST and CIFAR-10 into arrays, and tells whether these are the original data."""

import gzip
import hashlib
import io
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from common.files import UserError, reading

Arrays = tuple[np.ndarray, ...]  # training images and labels, test images and labels
# These identify the arrays, whatever file they come from: MNIST's `fingerprint`, and the SHA-1 of the six files of
# CIFAR-10's binary version (each 10,000 pairs of a label and an image), from MXNet's gluon.data.vision.
MNIST = "06b0d1f124c4e5fa796686ade41a9b778edacc8622f2195a352ef479ad44fc16"
CIFAR10 = [
    "aadd24acce27caa71bf4b10992e9e7b2d74c2540",
    "c0ba65cce70568cd57b4e03e9ac8d2a5367c1795",
    "1dd00a74ab1d17a6e7d73e185b69dbf31242f295",
    "aab85764eb3584312d3c7f65fd2fd016e36a258e",
    "26e2849e66a845b7f1e4614ae70f4889ae604628",
    "67eb016db431130d61cd03c7ad570b013799c88c",
]
REMEDY = "get it again, or delete it to have it downloaded"
# The globals that a pickled array refers to; the module of `_reconstruct` depends on the version of NumPy.
UNPICKLED = {"ndarray": np.ndarray, "dtype": np.dtype, "_reconstruct": np.empty(0).__reduce__()[0]}


def read_npz(path: Path) -> Arrays:
    """Returns the arrays x_train, y_train, x_test and y_test of an .npz file.

    Raises:
        UserError: The file is damaged or lacks one of them.
    """
    with reading(path, REMEDY), np.load(path, allow_pickle=False) as arrays:
        return tuple(arrays[key] for key in ("x_train", "y_train", "x_test", "y_test"))


def idx_files(folder: Path) -> list[Path]:
    """Returns the paths of MNIST's four idx files in `folder`, in the order of `Arrays`; an empty list if none exists.

    Each may be gzipped, and is named like "train-images-idx3-ubyte" or "train-images.idx3-ubyte".

    Raises:
        UserError: Some exist, but not all.
    """
    names = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
    found = {name: _idx_file(folder, name) for name in names}
    files = [path for path in found.values() if path]
    missing = [name for name, path in found.items() if not path]
    if files and missing:
        raise UserError(f"no {folder / missing[0]}, only {files[0].name}: put all four files of MNIST there")
    return files


def _idx_file(folder: Path, name: str) -> Path | None:
    for spelling in (name, name.replace("-idx", ".idx")):
        for path in (folder / spelling, folder / f"{spelling}.gz"):
            if path.is_file():
                return path
    return None


def read_idx(path: Path) -> np.ndarray:
    """Returns the uint8 array of an idx file, gzipped or not.

    Raises:
        UserError: The file is damaged.
    """
    with reading(path, REMEDY):
        content = path.read_bytes()
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
        if not content.startswith(b"\0\0\x08"):
            raise ValueError("not an idx file of bytes")
        dimensions = content[3]
        shape = np.frombuffer(content, ">u4", dimensions, offset=4)
        return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles NumPy arrays, lists, dicts, numbers and bytes; refuses everything else."""

    def find_class(self, module: str, name: str) -> Callable:
        if module.partition(".")[0] != "numpy" or name not in UNPICKLED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return UNPICKLED[name]


def read_batches(path: Path) -> Arrays:
    """Returns the arrays of cifar-10-python.tar.gz, or of the folder cifar-10-batches-py that it unpacks to.

    Raises:
        UserError: The archive or folder is damaged or incomplete.
    """
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    with reading(path, REMEDY):
        if path.is_dir():
            files = [(path / name).read_bytes() for name in names]
        else:
            content = gzip.decompress(path.read_bytes())  # all of it: only then is its checksum verified
            with tarfile.open(fileobj=io.BytesIO(content)) as archive:
                files = [archive.extractfile(f"cifar-10-batches-py/{name}").read() for name in names]
        batches = [_ArrayUnpickler(io.BytesIO(file), encoding="bytes").load() for file in files]
        images = [batch[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1) for batch in batches]
        labels = [np.array(batch[b"labels"]) for batch in batches]
        return np.concatenate(images[:5]), np.concatenate(labels[:5]), images[5], labels[5]


def checked(path: Path, arrays: Arrays, image_shape: tuple[int, ...]) -> Arrays:
    """Returns the arrays of `path`, with the labels as uint8 (n,).

    Raises:
        UserError: They are not uint8 images of `image_shape` with as many labels from 0 to 9, or there are too few.
    """
    x_train, y_train, x_test, y_test = arrays
    for x, y, least in ((x_train, y_train, 6000), (x_test, y_test, 1000)):
        if x.shape != (y.size, *image_shape) or x.dtype != np.uint8 or len(x) < least:
            found, shape = f"{x.dtype} {x.shape} and {y.size} labels", ", ".join(map(str, image_shape))
            raise UserError(
                f"{path} holds {found}, not uint8 ({least} or more, {shape}) and as many labels: get it again"
            )
        if y.dtype.kind not in "iu" or not 0 <= y.min() <= y.max() <= 9:
            raise UserError(f"{path} holds labels that are not whole numbers from 0 to 9: get it again")
    return x_train, y_train.reshape(-1).astype(np.uint8), x_test, y_test.reshape(-1).astype(np.uint8)


def fingerprint(*arrays: np.ndarray) -> str:
    """Returns the SHA-256, in hex, of the arrays' concatenated bytes."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def is_mnist(arrays: Arrays) -> bool:
    """Returns whether `checked` arrays are MNIST's 60,000 and 10,000 digits, in the original order."""
    return fingerprint(*arrays) == MNIST


def is_cifar10(arrays: Arrays) -> bool:
    """Returns whether `checked` arrays are CIFAR-10's 50,000 and 10,000 images, in the original order."""
    images, labels, test_images, test_labels = arrays
    if (len(images), len(test_images)) != (50_000, 10_000):
        return False
    parts = zip([*np.split(images, 5), test_images], [*np.split(labels, 5), test_labels])
    files = (np.column_stack([y, x.transpose(0, 3, 1, 2).reshape(len(x), -1)]) for x, y in parts)
    return [hashlib.sha1(file).hexdigest() for file in files] == CIFAR10
