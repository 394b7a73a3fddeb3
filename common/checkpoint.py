"""What a training saves, whole or not at all, and how it is resumed: checkpoint, networks, log."""

import contextlib
import csv
import json
import os
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import h5py
import keras
import tensorflow as tf

from common import silenced
from common.experiment import CHECKPOINT, Experiment
from common.files import UserError, atomic_write


class State(NamedTuple):
    """What the checkpoint holds beside the weights."""

    step: int
    seconds: float  # of training, over all sessions
    row: dict
    seed: int
    best: tuple[float, int] | None = None  # the lowest value of the log's column row["keep"], and its step
    checksum: int | None = None  # of the file's arrays


def read_state(folder: Path) -> State | None:
    """What the checkpoint in `folder` says of itself; None without a checkpoint.

    Raises:
        UserError: it is damaged, or of another version.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    try:
        with h5py.File(path) as file:
            return State(**json.loads(file.attrs["state"]))
    except TypeError as error:
        raise UserError(
            f"{path} is of another version ({error}): delete {folder} to start anew, or set RUNS_DIR"
        ) from error
    except (OSError, KeyError, ValueError) as error:
        if getattr(error, "errno", None):  # not of the file's contents
            raise
        raise UserError(f"{path} is damaged ({error}): delete {folder} to start anew") from error


def begin(experiment: Experiment, identity: dict[str, str]) -> State:
    """The state to go on from, with the images of this `Dataset.identity`.

    Raises:
        UserError: the folder holds another run.
    """
    folder = experiment.folder
    row = {key: value for key, value in experiment.row.items() if key != "reported"} | identity
    state = read_state(folder) or State(0, 0.0, row, experiment.seed)
    now, then = row | {"seed": experiment.seed}, state.row | {"seed": state.seed}
    if then.get("dataset") == now.get("dataset") and any(then.get(key) != value for key, value in identity.items()):
        raise UserError(
            f"{folder} was trained on {then.get('images')}, but here is {now['images']} of other contents: "
            "set DATA_DIR as then, or choose another RUNS_DIR"
        )
    if changed := [key for key in {*now, *then} if now.get(key) != then.get(key)]:
        raise UserError(
            f"{folder} was trained with another {', '.join(changed)}, or by another version: "
            "delete it to start anew, or set RUNS_DIR"
        )
    return state


def _checksum(file: h5py.File) -> int:
    """Of all arrays of a weights file, their names and places; HDF5 itself keeps none."""
    sums = []

    def add(name, item):
        if isinstance(item, h5py.Dataset):
            sums.append((name, zlib.crc32(item[()])))

    file.visititems(add)
    return zlib.crc32(repr(sums).encode())


def save_checkpoint(model: keras.Model, state: State, folder: Path, networks: bool) -> None:
    """Writes the model's weights and `state`; with `networks`, just before, each of its networks as <name>.keras."""
    with atomic_write(folder / CHECKPOINT) as draft:
        # A look whether there is room for the weights and Adam's two moments: without it HDF5 crashes.
        if hasattr(os, "posix_fallocate"):  # not on macOS
            size = sum(weights.numpy().nbytes for weights in model.weights)
            with open(draft, "wb") as file:
                os.posix_fallocate(file.fileno(), 0, 3 * size + 2**20)
        model.save_weights(draft)
        with h5py.File(draft, "a") as file:
            file.attrs["state"] = json.dumps(state._replace(checksum=_checksum(file))._asdict())
        if networks:
            save_networks(model, folder)


def load_checkpoint(model: keras.Model, state: State, folder: Path) -> None:
    """Loads the weights of the checkpoint whose state is `state`.

    Raises:
        UserError: the file is damaged, or of another model.
    """
    path = folder / CHECKPOINT
    try:
        with h5py.File(path) as file:
            if state.checksum not in (None, _checksum(file)):
                raise UserError(f"{path} is damaged (its checksum differs): delete {folder} to start anew")
        model.load_weights(path)
    except (ValueError, OSError, KeyError, TypeError) as error:
        if getattr(error, "errno", None):
            raise
        raise UserError(f"{path} does not fit the networks of this run: delete {folder}") from error


def save_networks(model: keras.Model, folder: Path) -> None:
    """Writes each of the model's networks as <name>.keras; where one can't be written, none."""
    with contextlib.ExitStack() as drafts:
        for name, network in model.networks().items():
            network.save(drafts.enter_context(atomic_write(folder / f"{name}.keras")))


def load_network(path: Path) -> keras.Model:
    """The network of a .keras file.

    Raises:
        UserError: the file is damaged.
    """
    try:
        with silenced():
            return keras.saving.load_model(path, compile=False)
    except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged: delete it, and call the same again") from error


def read_log(folder: Path) -> list[dict]:
    """The lines of log.csv, as text by column; empty where there is none. A last line that was cut short is left out.

    Raises:
        UserError: a line is damaged.
    """
    path = folder / "log.csv"
    if not path.is_file():
        return []
    with open(path, newline="") as file:
        rows = list(csv.DictReader(line for line in file if line.endswith("\n")))
    for number, row in enumerate(rows, 2):
        try:
            int(row["step"])
            [value == "" or float(value) for value in row.values()]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is damaged in line {number}: delete that line") from error
    return rows


def cut_back(folder: Path, step: int) -> None:
    """Takes out of a run's folder what lies beyond its checkpoint's `step`, and the drafts of a process killed."""
    for pattern in ("samples/~*", "snapshots/~*", "tensorboard/*/~*", "~*.keras", f"~*{CHECKPOINT}"):
        for draft in folder.glob(pattern):
            draft.unlink()
    for path in (*folder.glob("samples/[0-9]*"), *folder.glob("snapshots/[0-9]*")):
        if int(path.stem) > step:
            path.unlink()
    for path in folder.glob("tensorboard/*/events*"):
        _cut_events(path, step)
    if rows := read_log(folder):
        with atomic_write(folder / "log.csv") as draft, open(draft, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(row for row in rows if int(row["step"]) <= step)


def _cut_events(path: Path, step: int) -> None:
    events = []
    with contextlib.suppress(tf.errors.DataLossError):  # the last of which a kill may have cut short
        for event in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            events.append(event)
    kept = [event for event in events if tf.compat.v1.Event.FromString(event).step <= step]
    if len(kept) < len(events):
        with atomic_write(path) as draft, tf.io.TFRecordWriter(str(draft)) as writer:
            for event in kept:
                writer.write(event)
