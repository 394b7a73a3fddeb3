"""Loads CelebA, in any of its usual file formats, as one array: decoded once, then read from a cache."""

import contextlib
import hashlib
import io
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from common.files import UserError, atomic_write, bar, reading, reason, say

CROP = (32, 66, 144, 178)  # of 178x218: the 112x112 square from forehead to chin
ALL = 202_599  # faces in CelebA's list
USED = 44_621  # how many of these are used, the first by name
LEAST = 6_000  # of which 4,621 are dev and test images
REMEDY = "get it again"
PAGE = "mmlab.ie.cuhk.edu.hk/projects/CelebA.html"


class Faces(NamedTuple):
    """CelebA's images and attributes."""

    images: np.ndarray  # uint8 (n, 64, 64, 3)
    attributes: np.ndarray  # uint8 (n, 40), 0 or 1
    names: list[str]  # of the attributes
    origin: str  # where they were found
    complete: bool  # whether they are CelebA's first 44,621, by their names and the length of the list


class Pictures(NamedTuple):
    """The image files in a folder or zip."""

    path: Path
    files: dict[str, str]  # by face, sorted: "000001.jpg" for "000001"
    read: Callable[[str], bytes]  # a file's bytes
    stamp: Callable[[str], object]  # what changes when a file does


def load(parent: Path) -> Faces:
    """Returns the first 44,621 faces by name, or all if there are fewer, at 64x64, and their attributes.

    Args:
        parent: The folder that holds `img_align_celeba`, a folder or zip of JPEGs or PNGs of 178x218 pixels, and
            `list_attr_celeba.txt`, or Kaggle's `list_attr_celeba.csv`.

    Raises:
        UserError: One of them is missing, damaged or incomplete.
    """
    pictures = _find_pictures(parent)
    path, names, rows = _read_list(parent)
    _check_complete(rows, path, pictures.files, pictures.path)
    _check_complete(pictures.files, pictures.path, rows, path)
    faces = list(pictures.files)[:USED]
    if len(faces) < LEAST:
        raise UserError(f"{pictures.path} holds {len(faces):,} faces, fewer than {LEAST:,}: get the complete set")
    values = [rows[face].split() for face in faces]
    for face, row in zip(faces, values):
        if len(row) != 40 or not {*row} <= {"1", "-1"}:
            raise UserError(f"{path} does not have 40 values of 1 or -1 for {face}.jpg: get it again")
    complete = len(rows) == ALL and faces == [f"{number:06}" for number in range(1, USED + 1)]
    attributes = (np.array(values) == "1").astype(np.uint8)
    return Faces(_decoded(pictures, faces, parent), attributes, names, str(parent), complete)


def _check_complete(faces: dict[str, str], path: Path, others: dict[str, str], other: Path) -> None:
    """Raises UserError unless each face in `other` is also in `path`."""
    if missing := [face for face in others if face not in faces]:
        counts = f"{len(missing):,} of the faces in {other} are not in {path}, such as {missing[0]}.jpg"
        raise UserError(f"{counts}: get both again, in full, from {PAGE}")


def _find_pictures(parent: Path) -> Pictures:
    folder, archive = parent / "img_align_celeba", parent / "img_align_celeba.zip"
    for path in (folder, folder / folder.name):
        if path.is_dir() and (files := _by_face(path, (entry.name for entry in os.scandir(path)))):
            return _of_folder(path, files)
    if archive.is_file():
        return _of_zip(archive)
    held = sorted(entry.name for entry in parent.iterdir()) if parent.is_dir() else []
    raise UserError(
        f"no {folder} with .jpg or .png files and no {archive.name} (found: {', '.join(held[:5]) or 'nothing'}): get "
        f"the zip and list_attr_celeba.txt from {PAGE} and put both in {parent}, or set DATA_DIR to the folder that "
        "contains celeba/"
    )


def _of_folder(path: Path, files: dict[str, str]) -> Pictures:
    def stamp(file: str) -> tuple[int, int]:
        stat = (path / file).stat()
        return stat.st_size, stat.st_mtime_ns

    return Pictures(path, files, lambda file: (path / file).read_bytes(), stamp)


def _of_zip(path: Path) -> Pictures:
    """Reads the zip without unpacking it; only the last part of a member's path counts."""
    with reading(path, REMEDY):
        archive = zipfile.ZipFile(path)
    members = {Path(info.filename).name: info for info in archive.infolist() if not info.is_dir()}
    files = _by_face(path, members)
    return Pictures(path, files, lambda file: archive.read(members[file]), lambda file: members[file].CRC)


def _by_face(path: Path, files: Iterable[str]) -> dict[str, str]:
    """Returns the pictures in `files` by face, the name up to its first dot; skips the "._" files of macOS."""
    ends = (".jpg", ".jpeg", ".png")
    pictures = sorted(file for file in files if file.lower().endswith(ends) and not file.startswith("."))
    by_face = {file.partition(".")[0]: file for file in pictures}
    if len(by_face) < len(pictures):
        twice = next(file for file in pictures if file not in by_face.values())
        raise UserError(f"{path} holds two pictures of the same face, such as {twice}: keep only the .jpg files")
    return by_face


def _read_list(parent: Path) -> tuple[Path, list[str], dict[str, str]]:
    """Returns the list's path, the names of the 40 attributes, and the line of values of each face.

    The official list begins with its number of faces and the names; Kaggle's, with the names after "image_id".
    """
    official, kaggle = parent / "list_attr_celeba.txt", parent / "list_attr_celeba.csv"
    path = kaggle if kaggle.is_file() and not official.is_file() else official
    if not path.is_file():
        raise UserError(f"no {path} and no {kaggle.name}: get the former from {PAGE} and put it there")
    with reading(path, REMEDY):
        text = path.read_text(encoding="utf-8-sig").replace(",", " ")
        first, *lines = [line for line in text.splitlines() if line.strip()]
        if first.startswith("image_id"):
            count, names = len(lines), first.split()[1:]
        else:
            count, names = int(first), lines.pop(0).split()
        values = dict(line.split(maxsplit=1) for line in lines)
        rows = {file.partition(".")[0]: row for file, row in values.items()}
        if not count == len(lines) == len(rows) or len(names) != 40:
            counts = f"{len(lines):,} lines for {len(rows):,} of {count:,} faces"
            raise ValueError(f"{counts}, {len(names)} of 40 attributes")
    return path, names, rows


def _decoded(pictures: Pictures, faces: list[str], parent: Path) -> np.ndarray:
    """Returns the images of `faces`, uint8 (n, 64, 64, 3), from the cache, which is rebuilt if the pictures changed.

    The cache is memory-mapped, so parallel trainings share it; meanwhile it must not be changed in place.
    """
    files = [pictures.files[face] for face in faces]
    source = [CROP, *((file, pictures.stamp(file)) for file in files)]
    fingerprint = hashlib.sha256(repr(source).encode()).hexdigest()
    folder = _cache_folder(parent)
    path, checksum = folder / "celeba64.npy", folder / "celeba64.txt"
    # A damaged cache is as good as none.
    with contextlib.suppress(Exception):
        cached = np.load(path, mmap_mode="c").view(np.ndarray)  # copy on write: DLPack does not take read-only arrays
        known = checksum.read_text() == f"{fingerprint} {zlib.crc32(cached)}"
        if known and cached.shape == (len(files), 64, 64, 3) and cached.dtype == np.uint8:
            return cached
    cached = None  # Windows can't replace a mapped file
    say(f"  decoding {len(files):,} images, once, into {path}")
    groups = [files[i : i + 50] for i in range(0, len(files), 50)]  # one group per task, for fewer thread switches
    with (
        ThreadPoolExecutor(os.cpu_count()) as threads,
        bar(total=len(files), unit="image") as progress,
    ):  # Pillow releases the GIL
        parts = []
        for part in threads.map(lambda group: np.stack([_decode(pictures, file) for file in group]), groups):
            parts.append(part)
            progress.update(len(part))
    images = np.concatenate(parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as draft, open(draft, "wb") as file:  # concurrent processes each write their own draft
            np.save(file, images)
        with atomic_write(checksum) as draft:
            draft.write_text(f"{fingerprint} {zlib.crc32(images)}")
    except OSError as error:
        say(f"*** The images are not cached: cannot write {path} ({reason(error)})")
    return images


def _decode(pictures: Pictures, file: str) -> np.ndarray:
    with reading(pictures.path / file, REMEDY), Image.open(io.BytesIO(pictures.read(file))) as face:
        if face.size != (178, 218):
            raise ValueError(f"{face.width}x{face.height} pixels, not the aligned 178x218")
        # Pillow's filters widen with the scale, which prevents aliasing.
        return np.asarray(face.convert("RGB").crop(CROP).resize((64, 64), Image.Resampling.BILINEAR))


def _cache_folder(parent: Path) -> Path:
    """Returns `parent` if writable, else the user's cache folder, or a temporary one if the user has no home."""
    if os.access(parent, os.W_OK) and parent.stat().st_mode & 0o222:  # root could despite the mode
        return parent
    try:
        home = Path.home()
    except RuntimeError:
        home = Path(tempfile.gettempdir())
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "image-generators"
