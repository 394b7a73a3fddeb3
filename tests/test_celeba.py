"""CelebA in the formats that people have it in, with 120 drawn faces."""

import os
import shutil
import zipfile

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image
from test_datasets import refused

from common import celeba, datasets
from common.files import UserError

NUMBERS = range(1, 121)
NAMES = [f"attribute_{i}" for i in range(40)]
VALUES = np.array([[(number >> i % 7) & 1 for i in range(40)] for number in NUMBERS])


def write_face(path, number):
    """Draws 178x218 pixels: a disc with `number` as its grey level on green, and a red frame outside the crop."""
    y, x = np.mgrid[:218, :178]
    pixels = np.full([218, 178, 3], [0, 200, 0], np.uint8)
    pixels[(y - 122) ** 2 + (x - 88) ** 2 < 40**2] = number
    pixels[(y < 65) | (y >= 179) | (x < 31) | (x >= 145)] = [255, 0, 0]
    Image.fromarray(pixels).save(path, quality=95, subsampling=0)


def write_list(parent):
    rows = [f"{number:06}.jpg  " + "  ".join(map(str, 2 * row - 1)) for number, row in zip(NUMBERS, VALUES)]
    (parent / "list_attr_celeba.txt").write_text("\n".join([str(len(rows)), " ".join(NAMES), *rows]) + "\n")


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    parent = tmp_path_factory.mktemp("celeba")
    (parent / "img_align_celeba").mkdir()
    for number in NUMBERS:
        write_face(parent / "img_align_celeba" / f"{number:06}.jpg", number)
    write_list(parent)
    return parent


@pytest.fixture
def parent(official, tmp_path, monkeypatch):
    """A copy of the official folder and list, whose 120 faces are enough."""
    monkeypatch.setattr(celeba, "LEAST", 120)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return shutil.copytree(official, tmp_path / "celeba")


def edit(parent, change):
    path = parent / "list_attr_celeba.txt"
    path.write_bytes(change(path.read_bytes()))


def zip_up(parent, prefix="img_align_celeba/"):
    with zipfile.ZipFile(parent / "img_align_celeba.zip", "w") as archive:
        for path in (parent / "img_align_celeba").iterdir():
            archive.write(path, prefix + path.name)
            archive.writestr(f"__MACOSX/._{path.name}", b"")
    shutil.rmtree(parent / "img_align_celeba")


def as_kaggle_writes_it(parent):
    path = parent / "list_attr_celeba.txt"
    _, names, *rows = path.read_text().splitlines()
    path.unlink()
    lines = [",".join(row.split()) for row in (f"image_id {names}", *rows)]
    path.with_suffix(".csv").write_text("\n".join(lines) + "\n")
    return path.with_suffix(".csv")


def as_kaggle_has_it(parent):
    as_kaggle_writes_it(parent)
    shutil.move(parent / "img_align_celeba", parent / "x" / "img_align_celeba")
    (parent / "x").rename(parent / "img_align_celeba")


def with_other_ends(parent):
    for i, path in enumerate(sorted((parent / "img_align_celeba").iterdir())):
        path.rename(path.with_suffix([".JPG", ".jpeg", ".jpg"][i % 3]))


def as_png(parent):
    for path in (parent / "img_align_celeba").iterdir():
        Image.open(path).save(path.with_suffix(".PNG"))
        path.unlink()


def with_windows_line_ends(parent):
    edit(parent, lambda text: b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n"))


def in_a_zip_that_leads_elsewhere(parent):
    zip_up(parent, "../../")


FORMS = [as_kaggle_has_it, with_other_ends, as_png, with_windows_line_ends, zip_up, in_a_zip_that_leads_elsewhere]


@pytest.mark.parametrize("change", [None, *FORMS])
def test_celeba_as_people_have_it(parent, change, capsys):
    if change:
        change(parent)
    files = {path.name for path in parent.parent.rglob("*")}
    faces = celeba.load(parent)
    assert "decoding 120 images" in capsys.readouterr().out
    assert (faces.names, faces.origin, faces.complete) == (NAMES, str(parent), False)
    assert faces.images.shape == (120, 64, 64, 3) and faces.images.dtype == faces.attributes.dtype == np.uint8
    np.testing.assert_allclose(faces.images[:, 32, 32], np.repeat(NUMBERS, 3).reshape(120, 3), atol=3)
    # The frame is gone on all sides; the corners are green.
    np.testing.assert_allclose(faces.images[:, [0, 0, -1, -1], [0, -1, 0, -1]].mean((0, 1)), [0, 200, 0], atol=9)
    np.testing.assert_array_equal(faces.attributes, VALUES)
    again = celeba.load(parent)  # from the cache
    assert "decoding" not in capsys.readouterr().out
    np.testing.assert_array_equal(again.images, faces.images)
    assert datasets._aligned(again.images) is again.images and isinstance(again.images.base, np.memmap)  # used in place
    assert {path.name for path in parent.parent.rglob("*")} == files | {"celeba64.npy", "celeba64.txt"}


def test_all_of_celeba_is_known_by_its_names_and_list(parent, monkeypatch):
    monkeypatch.setattr(celeba, "USED", 120)
    monkeypatch.setattr(celeba, "ALL", 120)
    assert celeba.load(parent).complete
    (parent / "img_align_celeba" / "000120.jpg").rename(parent / "img_align_celeba" / "000121.jpg")
    edit(parent, lambda text: text.replace(b"000120.jpg", b"000121.jpg"))
    assert not celeba.load(parent).complete
    monkeypatch.setattr(celeba, "LEAST", 121)
    with pytest.raises(UserError, match="120 faces, fewer than 121"):
        celeba.load(parent)


def test_grey_cmyk_and_stripes(parent):
    """One-pixel stripes become grey, their mean; resizing without antialiasing would keep some black."""
    folder = parent / "img_align_celeba"
    for name, mode in (("000001.jpg", "L"), ("000002.jpg", "CMYK")):
        Image.open(folder / name).convert(mode).save(folder / name, quality=95)
    stripes = np.zeros([218, 178, 3], np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(folder / "000003.jpg", quality=95)
    grey, cmyk, striped, colour = celeba.load(parent).images[:4].astype(int)
    assert (grey == grey[..., :1]).all()
    np.testing.assert_allclose(cmyk, colour, atol=20)
    assert striped[8:-8, 8:-8].min() > 90 and striped[8:-8, 8:-8].max() < 165


def test_the_cache_follows_its_source(parent, monkeypatch, capsys):
    cache, expected = parent / "celeba64.npy", celeba.load(parent).images
    write_face(parent / "img_align_celeba" / "000001.jpg", 100)
    assert celeba.load(parent).images[0, 32, 32, 0] == pytest.approx(100, abs=3)
    whole = cache.read_bytes()
    for damaged in (whole[:100_000], whole[:-1] + bytes([whole[-1] ^ 1]), whole.replace(b"|u1", b"|i1", 1)):
        cache.write_bytes(damaged)
        np.testing.assert_array_equal(celeba.load(parent).images[1:], expected[1:])
    assert capsys.readouterr().out.count("decoding") == 5
    # If the folder is read-only, the cache is elsewhere; if no folder is writable, the images are loaded all the same.
    cache.unlink()
    parent.chmod(0o555)
    celeba.load(parent)
    assert (parent.parent / "cache" / "image-generators" / cache.name).is_file() and not cache.exists()
    monkeypatch.setenv("XDG_CACHE_HOME", str(parent / "list_attr_celeba.txt"))
    np.testing.assert_array_equal(celeba.load(parent).images[1:], expected[1:])
    assert "not cached" in capsys.readouterr().out


FACE = "img_align_celeba/000012.jpg"


@pytest.mark.parametrize(
    ("damage", "texts"),
    [
        (lambda parent: os.truncate(parent / FACE, 1500), ["000012.jpg is damaged"]),
        (lambda parent: Image.new("RGB", (64, 64)).save(parent / FACE), ["000012.jpg", "64x64", "178x218"]),
        (lambda parent: shutil.copy(parent / FACE, parent / f"{FACE[:-4]}.PNG"), ["two pictures", "000012"]),
        (lambda parent: (parent / FACE).unlink(), ["1 of the faces in", "celeba.txt are not in", "000012.jpg"]),
        (lambda parent: (parent / FACE).rename(parent / f"{FACE}.txt"), ["1 of the faces", "000012.jpg"]),
        (
            lambda parent: write_face(parent / "img_align_celeba" / "1.jpg", 1),
            ["1 of the faces in", "align_celeba are not in", "1.jpg"],
        ),
        (lambda parent: (parent / "img_align_celeba").rename(parent / "Img"), ["no ", "align_celeba.zip", "Img"]),
        (lambda parent: (zip_up(parent), os.truncate(parent / "img_align_celeba.zip", 999)), ["zip is damaged"]),
        (lambda parent: (parent / "list_attr_celeba.txt").unlink(), ["no ", "list_attr_celeba.txt"]),
        (lambda parent: edit(parent, lambda text: text.replace(b"  -1\n", b"  2\n")), ["40 values"]),
        (lambda parent: edit(parent, lambda text: text.replace(b"  -1\n", b"\n")), ["40 values"]),
    ],
)
def test_what_is_wrong_is_named(parent, damage, texts):
    damage(parent)
    with pytest.raises(UserError) as error:
        celeba.load(parent)
    assert "\n" not in str(error.value) and all(text in str(error.value) for text in texts), error.value


@hypothesis.given(kaggle=st.booleans(), stop=st.integers(0, 122), start=st.integers(0, 122))
def test_lines_lost_from_the_list_or_doubled_are_seen(parent, kaggle, stop, start):
    write_list(parent)
    path = as_kaggle_writes_it(parent) if kaggle else parent / "list_attr_celeba.txt"
    lines = path.read_text().splitlines()
    changed = lines[:stop] + lines[start:]
    path.write_text("\n".join(changed))
    faces = refused(lambda: celeba.load(parent), path)
    assert (faces is not None) == (changed == lines)
    path.unlink()


def test_real_celeba(real_celeba):
    assert real_celeba.source in ("CelebA", "13,859 CelebA faces")
    assert real_celeba.names[20] == "Male" and real_celeba.names[31] == "Smiling"
    # Published shares: 41.7% are men, 48.2% smile.
    shares = real_celeba.train.labels.mean(0)
    assert shares[20] == pytest.approx(0.417, abs=0.03) and shares[31] == pytest.approx(0.482, abs=0.03)
