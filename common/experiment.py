"""The experiment that the command line asks for: a row of a script, a seed, a number of steps and their folder."""

import contextlib
import difflib
import inspect
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import portalocker

from common.files import ROOT, UserError, say

CHECKPOINT = "checkpoint.weights.h5"


class Experiment(NamedTuple):
    """A row of a script's RUNS with the SEED and STEPS asked for, and the folder of its results."""

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
        """What to type for the experiment's train.py or test.py."""
        names = ["DATA_DIR", "RUNS_DIR", "SEED", "STEPS"] + (["TF_CONFIG"] if file == "train.py" else [])
        variables = [f"{name}={shlex.quote(os.environ[name])}" for name in names if os.environ.get(name)]
        path = str(self.script / file)
        with contextlib.suppress(ValueError):  # on another drive of Windows
            path = os.path.relpath(path)
        return " ".join([*variables, "python", shlex.quote(path), self.name])

    def require_checkpoint(self) -> None:
        """Looks whether something is trained.

        Raises:
            UserError: nothing is.
        """
        if not (self.folder / CHECKPOINT).is_file():
            beside = [path.parent.name for path in self.folder.parent.glob(f"{self.name}-*/{CHECKPOINT}")]
            hint = f" (there is one in {', '.join(sorted(beside))}: set STEPS and SEED as then)" if beside else ""
            raise UserError(f"no trained model in {self.folder}{hint}; first: {self.command('train.py')}")


def select(runs: dict, function: Callable) -> Experiment:
    """The experiment that the command line and SEED, STEPS and RUNS_DIR ask for, of the script of `function`.

    Raises:
        UserError: there is no such row, or a variable is not a number.
    """
    return named(Path(inspect.getfile(function)).resolve().parent, runs, asked(runs))


def batch(row: dict) -> str:
    """The images of a step, and how many batches of them."""
    batches = row["model"].get("batches_per_step", 1)
    return f"{batches} x {row['batch_size']}" if batches > 1 else f"{row['batch_size']}"


def asked(runs: dict) -> str:
    """The name of the row that the command line asks for, by default the first."""
    return " ".join(sys.argv[1:]) or next(iter(runs))


def named(script: Path, runs: dict, name: str) -> Experiment:
    """As `select`, of a script's folder and the name of a row."""
    if name not in runs:
        names = ", ".join(runs)
        raise UserError(f"{script.name} has no experiment {name!r}{did_you_mean(name, runs)}: choose from {names}")
    seed, steps = number("SEED", 0, 0), number("STEPS", runs[name]["steps"], 1)
    folder = name
    if seed:
        folder += f"-seed{seed}"
    if steps != runs[name]["steps"]:
        folder += f"-steps{steps}"
    return Experiment(script, name, runs[name], seed, steps, runs_dir() / script.name / folder)


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A question in brackets, after a name that is none of `names` but near one; else nothing."""
    near = difflib.get_close_matches(name.lower(), names, 1)
    return f" (did you mean {near[0]}?)" if near else ""


def runs_dir() -> Path:
    """RUNS_DIR, by default the repository's runs/."""
    return Path(os.environ.get("RUNS_DIR") or ROOT / "runs").expanduser()


def data_dir() -> Path:
    """DATA_DIR, by default the repository's data/.

    Raises:
        UserError: DATA_DIR is set, but is no folder.
    """
    chosen = os.environ.get("DATA_DIR")
    if not chosen:
        return ROOT / "data"
    path = Path(os.path.expanduser(chosen))  # noqa: PTH111  pathlib's raises where it finds no home
    if not path.is_dir():
        raise UserError(f"DATA_DIR={path} is not a folder: it should contain mnist.npz, cifar10.npz or celeba/")
    return path


def number(variable: str, default: int, least: int) -> int:
    """An environment variable's whole number of at least `least`; `default` where it is unset.

    Raises:
        UserError: it is no such number.
    """
    text = os.environ.get(variable) or str(default)
    if not text.isdecimal() or len(text) > 9 or int(text) < least:
        raise UserError(f"{variable}={text[:20]} is not a whole number from {least} to 999999999")
    return int(text)


class InUse(UserError):
    """Another process holds an experiment's folder."""


@contextlib.contextmanager
def hold_folder(experiment: Experiment) -> Iterator[None]:
    """Makes the experiment's folder, and holds it against another train.py, until the process ends if not before.

    Raises:
        UserError: it can't be written to.
        InUse: another train.py holds it.
    """
    folder = experiment.folder
    try:
        for part in ("samples", "snapshots"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "w")
    except OSError as error:
        raise UserError(
            f"cannot write to {folder} ({error.strerror}): set RUNS_DIR to a folder that can be written"
        ) from error
    with lock:
        try:
            portalocker.lock(lock, portalocker.LOCK_EX | portalocker.LOCK_NB)
        except portalocker.AlreadyLocked as error:
            raise InUse(f"another train.py is at work in {folder}: wait for it, or set RUNS_DIR") from error
        except portalocker.LockException as error:
            say(f"*** {folder} can't be locked ({error}): see that no second train.py works in it")
        yield
