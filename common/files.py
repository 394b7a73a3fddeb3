"""Atomic file writes, forgiving reads, lines to the terminal, and errors that a user can fix."""

import contextlib
import errno
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent


class UserError(Exception):
    """An error that the user can fix. Its text is one line that names the problem and the remedy."""


def say(line: str = "") -> None:
    """Prints a line at once, or drops it if the pipe or terminal is closed, so that no computed work is lost."""
    try:
        with tqdm.external_write_mode(sys.stdout):  # redraws a bar below the line
            print(line, flush=True)
    except (OSError, ValueError, AttributeError):
        sys.stdout = open(os.devnull, "w")


def bar(**options) -> tqdm:
    """Returns a progress bar, `disable`d if stdout is not a terminal."""
    columns, lines = shutil.get_terminal_size()  # unlike tqdm's own, never 0
    return tqdm(ncols=columns, nrows=lines, file=sys.stdout, disable=not sys.stdout.isatty(), **options)


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a draft to write to, which atomically replaces `path` if the block ends without an exception.

    Each draft has a name of its own, also among machines that share the folder; a draft left by a killed process is
    removed by the next write of `path` an hour later or more.
    """
    for left in path.parent.glob(f"~*-{path.name}"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > 3600:
                left.unlink()
    draft = path.with_name(f"~{secrets.token_hex(4)}-{path.name}")
    try:
        yield draft
        with open(draft, "rb+") as file:
            os.fsync(file.fileno())  # else a power cut could leave `path` empty
        draft.replace(path)
    except BaseException as error:
        draft.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno:  # else its text is all there is
            error.filename = error.filename or str(path)  # not set if the disk is full
        raise


def read_json(path: Path) -> dict:
    """Returns the contents of a JSON file; an empty dict if it is damaged or missing."""
    with contextlib.suppress(OSError, ValueError):
        value = json.loads(path.read_text())
        if isinstance(value, dict):
            return value
    return {}


@contextlib.contextmanager
def reading(path: Path, remedy: str, *others: type[Exception]) -> Iterator[None]:
    """Turns whatever a damaged file raises into a UserError; zip, zlib, pickle, NumPy, Pillow and Keras vary.

    `others` are not about the file's contents, and raised as they are.
    """
    try:
        yield
    except (UserError, MemoryError, PermissionError, *others):
        raise
    except Exception as error:
        # Nor are the system's errors, except that a damaged zip may send Python to before its start, or that a file is
        # missing from a folder.
        if getattr(error, "errno", None) not in (None, errno.EINVAL, *([errno.ENOENT] if path.is_dir() else [])):
            raise
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} is damaged ({why}): {remedy}") from error


def reason(error: OSError) -> str:
    """Returns why a read or write failed, in the system's words; in the error's own if it has no number."""
    return os.strerror(error.errno) if error.errno else str(error)


def explain(error: UserError | OSError) -> str:
    """Returns one line that names the problem and the remedy."""
    if isinstance(error, UserError):
        return str(error)
    what = f"cannot read or write {error.filename or 'a file'} ({reason(error)})"
    return f"{what}: mend that, or set RUNS_DIR or DATA_DIR to another folder, then run the same command again"


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns errors that the user can fix into one line and exit code 2, Ctrl-C into 130."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno is None:
            raise
        print(f"error: {explain(error)}; what was saved is kept", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
