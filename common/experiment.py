"""The experiment that the command line asks for: a script's row, a seed, a number of steps and a folder."""

import contextlib
import difflib
import inspect
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import portalocker

from common.files import ROOT, UserError, reason, say

CHECKPOINT = "checkpoint.weights.h5"


class Experiment(NamedTuple):
    """A row of a script's RUNS with the requested SEED and STEPS, and the folder of its results."""

    script: Path  # the folder of train.py and test.py
    name: str  # of the row
    row: dict
    seed: int
    steps: int  # to do; row["steps"] unless STEPS says otherwise
    folder: Path

    @property
    def title(self) -> str:
        return f"{self.script.name} {self.name}"

    def command(self, file: str) -> str:
        """Returns the command that runs the experiment's train.py or test.py."""
        names = ["DATA_DIR", "RUNS_DIR", "SEED", "STEPS"] + (["TF_CONFIG"] if file == "train.py" else [])
        variables = [f"{name}={shlex.quote(os.environ[name])}" for name in names if os.environ.get(name)]
        path = str(self.script / file)
        with contextlib.suppress(ValueError):  # on another Windows drive
            path = os.path.relpath(path)
        return " ".join([*variables, "python", shlex.quote(path), self.name])

    def require_checkpoint(self) -> None:
        """Checks that there is a trained model.

        Raises:
            UserError: There is none.
        """
        if not (self.folder / CHECKPOINT).is_file():
            beside = [path.parent.name for path in self.folder.parent.glob(f"{self.name}*/{CHECKPOINT}")
                      if path.parent.name.partition("-")[0] == self.name]  # fmt: skip
            hint = f" (there is one in {', '.join(sorted(beside))}: set STEPS and SEED as before)" if beside else ""
            raise UserError(f"no trained model in {self.folder}{hint}; run this first: {self.command('train.py')}")


def select(runs: dict, function: Callable) -> Experiment:
    """Returns the experiment that the command line, SEED, STEPS and RUNS_DIR ask for, of the script of `function`.

    Raises:
        UserError: There is no such row, or a variable is not a valid number.
    """
    return named(Path(inspect.getfile(function)).resolve().parent, runs, asked(runs))


def batch(row: dict) -> str:
    """Returns the batch size as text, with the number of batches per step if there are several: "5 x 64"."""
    batches = row["model"].get("batches_per_step", 1)
    return f"{batches} x {row['batch_size']}" if batches > 1 else f"{row['batch_size']}"


def asked(runs: dict) -> str:
    """Returns the name of the row that the command line asks for, by default the first."""
    return " ".join(sys.argv[1:]) or next(iter(runs))


def named(script: Path, runs: dict, name: str) -> Experiment:
    """Does the same as `select`, given a script's folder and the name of a row."""
    if name not in runs:
        names = ", ".join(runs)
        raise UserError(f"{script.name} has no experiment {name!r}{did_you_mean(name, runs)}: choose one of {names}")
    seed, steps = number("SEED", 0, 0), number("STEPS", runs[name]["steps"], 1)
    folder = name
    if seed:
        folder += f"-seed{seed}"
    if steps != runs[name]["steps"]:
        folder += f"-steps{steps}"
    return Experiment(script, name, runs[name], seed, steps, runs_dir() / script.name / folder)


def steps_suffix(folder: Path) -> str:
    """Returns the end that STEPS gave an experiment's folder, such as "-steps60"; an empty string without one."""
    return re.search(r"(-steps\d+)?$", folder.name).group()


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Returns " (did you mean ...?)" if `name` is similar to one of `names`, else an empty string."""
    near = difflib.get_close_matches(name.lower(), names, 1)
    return f" (did you mean {near[0]}?)" if near else ""


def runs_dir() -> Path:
    """Returns RUNS_DIR, by default the repository's runs/."""
    return Path(os.path.expanduser(os.environ.get("RUNS_DIR") or ROOT / "runs"))  # noqa: PTH111  see data_dir


def data_dir() -> Path:
    """Returns DATA_DIR, by default the repository's data/.

    Raises:
        UserError: DATA_DIR is set, but is not a folder.
    """
    chosen = os.environ.get("DATA_DIR")
    if not chosen:
        return ROOT / "data"
    path = Path(os.path.expanduser(chosen))  # noqa: PTH111  pathlib's raises if there is no home
    if not path.is_dir():
        raise UserError(f"DATA_DIR={path} is not a folder: it should contain mnist.npz, cifar10.npz or celeba/")
    return path


def number(variable: str, default: int, least: int) -> int:
    """Returns an environment variable as an integer from `least` to 999,999,999; `default` if it is unset.

    Raises:
        UserError: The variable is not such an integer.
    """
    text = os.environ.get(variable) or str(default)
    if not text.isdecimal() or len(text) > 9 or int(text) < least:
        raise UserError(f"{variable}={text[:20]} is not a whole number from {least} to 999999999")
    return int(text)


@contextlib.contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turns an OSError into a UserError that names the folder and the remedy."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({reason(error)}): set RUNS_DIR to a writable folder") from error


class InUse(UserError):
    """Another process holds an experiment's folder."""


@contextlib.contextmanager
def hold_folder(experiment: Experiment) -> Iterator[None]:
    """Creates the experiment's folder, and locks out any other train.py until the block or the process ends.

    Raises:
        UserError: The folder can't be written to.
        InUse: Another train.py holds it.
    """
    folder = experiment.folder
    with writing_to(folder):
        for part in ("samples", "snapshots"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "w")
    with lock:
        try:
            portalocker.lock(lock, portalocker.LOCK_EX | portalocker.LOCK_NB)
        except portalocker.AlreadyLocked as error:
            raise InUse(f"another train.py is at work in {folder}: wait for it to end, or set RUNS_DIR") from error
        except portalocker.LockException as error:
            say(f"*** {folder} can't be locked ({error}): make sure that no other train.py uses it")
        yield
