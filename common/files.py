"""Files that appear whole or not at all, lines to the terminal, and the errors that a user can mend."""

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent


class UserError(Exception):
    """What the user can mend. Its text is one line that names the thing and the remedy."""


def say(line: str = "") -> None:
    """Prints a line at once. A closed pipe or terminal is no reason to lose what is computed: then to nowhere."""
    try:
        with tqdm.external_write_mode(sys.stdout):  # a bar is drawn again below the line
            print(line, flush=True)
    except (OSError, ValueError, AttributeError):
        sys.stdout = open(os.devnull, "w")


def bar(**options) -> tqdm:
    """A progress bar for terminals, `disable`d elsewhere."""
    columns, lines = shutil.get_terminal_size()  # unlike tqdm's own look, never 0
    return tqdm(ncols=columns, nrows=lines, file=sys.stdout, disable=not sys.stdout.isatty(), **options)


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
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
        with open(draft, "rb+") as file:
            os.fsync(file.fileno())  # else a power cut could leave `path` empty
        draft.replace(path)
    except BaseException as error:
        draft.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = error.filename or str(path)  # which a full disk does not tell
        raise


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns what the user can mend into one line and exit code 2, Ctrl-C into 130."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno is None:
            raise
        print(
            f"error: cannot read or write {error.filename or 'a file'} ({os.strerror(error.errno)}): mend that, or set "
            "RUNS_DIR to another folder, then call the same again; what was saved is kept",
            file=sys.stderr,
        )
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
