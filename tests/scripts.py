"""Helpers for several tests, which call the five scripts as a user does."""

import io
import os
import subprocess
import sys
from pathlib import Path

import h5py

import acgan.train
import dcgan.train
import infogan.train
import vae.train
import wgan.train
from common import training

ROOT = Path(__file__).resolve().parent.parent
MODULES = {
    "vae": vae.train, "dcgan": dcgan.train, "acgan": acgan.train, "infogan": infogan.train, "wgan": wgan.train,
}  # fmt: skip
SCRIPTS = tuple(MODULES)


def start(folder, *words, output=subprocess.PIPE, **environment):
    """Starts `python words` in `folder`, outside the repository, without a terminal."""
    ours = {name: value for name, value in os.environ.items() if name != "TF_NUM_INTRAOP_THREADS"}
    environment = ours | {"RUNS_DIR": str(folder / "runs")} | environment
    return subprocess.Popen(
        [sys.executable, ROOT / words[0], *words[1:]],
        env=environment, cwd=folder, text=True, stdout=output, stderr=output,
    )  # fmt: skip


def call(*words, **environment):
    """Like `start`, but runs to the end; returns the exit code, stdout and stderr."""
    process = start(*words, **environment)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def wait_for_line(process, text):
    """Reads until a line contains `text`."""
    read = ""
    for line in process.stdout:
        read += line
        if text in line:
            return
    raise AssertionError(f"{text!r} never came: {read} {process.stderr.read()}")


def arrays(path):
    """Returns all arrays of a weights file, by name."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def is_one_line(code, err, *texts):
    """Checks that a script ended with exit code 2 and a one-line error that contains `texts`."""
    assert code == 2 and err.count("\n") == 1 and err.startswith("error: "), err
    for text in texts:
        assert str(text) in err


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self):
        return True


def with_model(row, **changes):
    """Returns the row with changes to its model."""
    return row | {"model": row["model"] | changes}


def train_here(monkeypatch, folder, module, runs=None, **environment):
    """Calls `training.train` in this process; returns its exit code."""
    for variable, value in ({"RUNS_DIR": str(folder), "STEPS": "105"} | environment).items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    try:
        training.train(runs or module.RUNS, module.build, module.generate, module.CURVES)
    except SystemExit as stop:
        return stop.code
    return 0
