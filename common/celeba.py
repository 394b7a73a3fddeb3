"""CelebA as people have it, made one array: decoded once, then read from a cache."""

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

from common.files import UserError, atomic_write, bar, say

CROP = (32, 66, 144, 178)  # of 178x218: 112x112, from forehead to chin
ALL = 202_599  # faces that CelebA's list has
USED = 44_621  # of these, the first by name
LEAST = 6_000  # of which 4,621 are not trained with
PAGE = "mmlab.ie.cuhk.edu.hk/projects/CelebA.html"


class Faces(NamedTuple):
    """CelebA's images and attributes."""

    images: np.ndarray  # uint8 (n, 64, 64, 3)
    attributes: np.ndarray  # uint8 (n, 40), 0 or 1
    names: list[str]  # of the attributes
    origin: str  # where they were found
    complete: bool  # whether they are CelebA's first 44,621, by their names and the length of the list


class Pictures(NamedTuple):
    """The files of a folder or zip."""

    path: Path
    files: dict[str, str]  # the file of each face, sorted: "000001.jpg" of "000001"
    read: Callable[[str], bytes]  # a file's bytes
    stamp: Callable[[str], object]  # what changes when a file does


def load(parent: Path) -> Faces:
    """The first 44,621 faces by name, or as many as there are, at 64x64, and their attributes.

    Args:
        parent: The folder that holds `img_align_celeba`, a folder or zip of JPEGs or PNGs of 178x218 pixels, and
            `list_attr_celeba.txt`, or Kaggle's `list_attr_celeba.csv`.

    Raises:
        UserError: One of them is absent, damaged or incomplete.
    """
    pictures = _find_pictures(parent)
    path, names, rows = _read_list(parent)
    _check_complete(rows, pictures.path, pictures.files, path)
    _check_complete(pictures.files, path, rows, pictures.path)
    faces = list(pictures.files)[:USED]
    if len(faces) < LEAST:
        raise UserError(f"{pictures.path} holds {len(faces):,} faces, fewer than {LEAST:,}: get it again, complete")
    values = [rows[face].split() for face in faces]
    for face, row in zip(faces, values):
        if len(row) != 40 or not {*row} <= {"1", "-1"}:
            raise UserError(f"{path} has no 40 values 1 or -1 for {face}.jpg: get it again")
    complete = len(rows) == ALL and faces == [f"{number:06}" for number in range(1, USED + 1)]
    attributes = (np.array(values) == "1").astype(np.uint8)
    return Faces(_decoded(pictures, faces, parent), attributes, names, str(parent), complete)


def _check_complete(faces: dict[str, str], path: Path, others: dict[str, str], other: Path) -> None:
    """Each face that is in `other` must be in `path`, too."""
    if missing := [face for face in others if face not in faces]:
        counts = f"{len(missing):,} faces of {other} are not in {path}, {missing[0]}.jpg for one"
        raise UserError(f"{counts}: get both again, complete, at {PAGE}")


def _find_pictures(parent: Path) -> Pictures:
    folder, archive = parent / "img_align_celeba", parent / "img_align_celeba.zip"
    for path in (folder, folder / folder.name):
        if path.is_dir() and (files := _by_face(path, (entry.name for entry in os.scandir(path)))):
            return _of_folder(path, files)
    if archive.is_file():
        return _of_zip(archive)
    held = sorted(entry.name for entry in parent.iterdir()) if parent.is_dir() else []
    raise UserError(
        f"no {folder} with .jpg or .png files and no {archive.name} beside it, but {', '.join(held[:5]) or 'nothing'}: "
        f"get the zip and list_attr_celeba.txt at {PAGE} and put both in {parent}, or set DATA_DIR to where celeba/ is"
    )


def _of_folder(path: Path, files: dict[str, str]) -> Pictures:
    def stamp(file: str) -> tuple[int, int]:
        stat = (path / file).stat()
        return stat.st_size, stat.st_mtime_ns

    return Pictures(path, files, lambda file: (path / file).read_bytes(), stamp)


def _of_zip(path: Path) -> Pictures:
    """Nothing is unpacked: whatever folder a member names, its last part is the file."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{path} is damaged ({error}): get it again") from error
    members = {Path(info.filename).name: info for info in archive.infolist() if not info.is_dir()}
    files = _by_face(path, members)
    return Pictures(path, files, lambda file: archive.read(members[file]), lambda file: members[file].CRC)


def _by_face(path: Path, files: Iterable[str]) -> dict[str, str]:
    """The pictures among `files` by their names without what follows the first dot. macOS adds a ._ to each."""
    ends = (".jpg", ".jpeg", ".png")
    pictures = sorted(file for file in files if file.lower().endswith(ends) and not file.startswith("."))
    by_face = {file.partition(".")[0]: file for file in pictures}
    if len(by_face) < len(pictures):
        twice = next(file for file in pictures if file not in by_face.values())
        raise UserError(f"{path} holds two pictures of a face, {twice} for one: keep the .jpg files alone")
    return by_face


def _read_list(parent: Path) -> tuple[Path, list[str], dict[str, str]]:
    """The list's path, the 40 attributes' names, and by face the line of its values.

    The official list begins with its count of faces and the names; Kaggle's with the names, behind "image_id".
    """
    official, kaggle = parent / "list_attr_celeba.txt", parent / "list_attr_celeba.csv"
    path = kaggle if kaggle.is_file() and not official.is_file() else official
    if not path.is_file():
        raise UserError(f"no {path}, nor {kaggle.name}: get the former at {PAGE} and put it there")
    try:
        text = path.read_text(encoding="utf-8-sig").replace(",", " ")
        first, *lines = [line for line in text.splitlines() if line.strip()]
        if first.startswith("image_id"):
            count, names = len(lines), first.split()[1:]
        else:
            count, names = int(first), lines.pop(0).split()
        values = dict(line.split(maxsplit=1) for line in lines)
        rows = {file.partition(".")[0]: row for file, row in values.items()}
        if not count == len(lines) == len(rows) or len(names) != 40:
            counts = f"{len(lines):,} lines of {len(rows):,} faces of {count:,}"
            raise ValueError(f"{counts}, {len(names)} attributes of 40")
    except (ValueError, IndexError) as error:
        raise UserError(f"{path} is damaged ({error}): get it again") from error
    return path, names, rows


def _decoded(pictures: Pictures, faces: list[str], parent: Path) -> np.ndarray:
    """The images of `faces`, uint8 (n, 64, 64, 3), of the cache, which is made where the pictures have changed.

    The cache is mapped into memory, where trainings side by side share it; meanwhile it must not be changed in place.
    """
    files = [pictures.files[face] for face in faces]
    source = [CROP, *((file, pictures.stamp(file)) for file in files)]
    fingerprint = hashlib.sha256(repr(source).encode()).hexdigest()
    folder = _cache_folder(parent)
    path, checksum = folder / "celeba64.npy", folder / "celeba64.txt"
    # A damaged cache is as good as none.
    with contextlib.suppress(Exception):
        cached = np.load(path, mmap_mode="c").view(np.ndarray)  # copy on write: DLPack takes no read-only array
        known = checksum.read_text() == f"{fingerprint} {zlib.crc32(cached)}"
        if known and cached.shape == (len(files), 64, 64, 3) and cached.dtype == np.uint8:
            return cached
    cached = None  # Windows replaces no file that is mapped
    say(f"  decoding {len(files):,} images, once, into {path}")
    groups = [files[i : i + 50] for i in range(0, len(files), 50)]  # a thread's task, to switch less often
    with (
        ThreadPoolExecutor(os.cpu_count()) as threads,
        bar(total=len(files), unit="image") as progress,
    ):  # Pillow releases the interpreter's lock
        parts = []
        for part in threads.map(lambda group: np.stack([_decode(pictures, file) for file in group]), groups):
            parts.append(part)
            progress.update(len(part))
    images = np.concatenate(parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as draft, open(draft, "wb") as file:  # two processes at once write a file each
            np.save(file, images)
        with atomic_write(checksum) as draft:
            draft.write_text(f"{fingerprint} {zlib.crc32(images)}")
    except OSError as error:
        say(f"*** The images are not cached: cannot write {path} ({error.strerror})")
    return images


def _decode(pictures: Pictures, file: str) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(pictures.read(file))) as face:
            if face.size != (178, 218):
                raise ValueError(f"{face.width}x{face.height} pixels, not the aligned 178x218")
            # Pillow's filters widen with the scale, so that nothing is aliased.
            return np.asarray(face.convert("RGB").crop(CROP).resize((64, 64), Image.Resampling.BILINEAR))
    except Exception as error:  # Pillow, zipfile and zlib each have their own for a damaged file
        raise UserError(f"{pictures.path / file} is damaged ({error}): get it again") from error


def _cache_folder(parent: Path) -> Path:
    """`parent` if it can be written, else the user's cache folder, or the system's for a user without a home."""
    if os.access(parent, os.W_OK) and parent.stat().st_mode & 0o222:  # root may, but was told not to
        return parent
    try:
        home = Path.home()
    except RuntimeError:
        home = Path(tempfile.gettempdir())
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "image-generators"
