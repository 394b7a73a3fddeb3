"""What a training saves, atomically, and how it is resumed: checkpoint, networks and log."""

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
from common.files import UserError, atomic_write, reading

RETRY = "delete it, and run the same command again"


class State(NamedTuple):
    """What the checkpoint holds besides the weights."""

    step: int
    seconds: float  # of training, over all sessions
    row: dict
    seed: int
    best: tuple[float, int] | None = None  # the lowest value of the log's column row["keep"], and its step
    checksum: int | None = None  # of the file's arrays


def read_state(folder: Path) -> State | None:
    """Returns the state in the checkpoint in `folder`, or None if there is no checkpoint.

    Raises:
        UserError: The checkpoint is damaged or from another version.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    with reading(path, f"delete {folder} to start over"), h5py.File(path) as file:
        saved = json.loads(file.attrs["state"])
    try:
        return State(**saved)
    except TypeError as error:
        raise UserError(
            f"{path} is from another version ({error}): delete {folder} to start over, or set RUNS_DIR"
        ) from error


def begin(experiment: Experiment, identity: dict[str, str]) -> State:
    """Returns the state to resume from, given the `Dataset.identity` of the images.

    Raises:
        UserError: The folder holds another run, or its checkpoint is damaged.
    """
    folder = experiment.folder
    row = {key: value for key, value in experiment.row.items() if key != "reported"} | identity
    state = read_state(folder) or State(0, 0.0, row, experiment.seed)
    now, then = row | {"seed": experiment.seed}, state.row | {"seed": state.seed}
    if then.get("dataset") == now.get("dataset") and any(then.get(key) != value for key, value in identity.items()):
        raise UserError(
            f"{folder} was trained on {then.get('images')}, but here is {now['images']} with other contents: "
            "set DATA_DIR as before, or choose another RUNS_DIR"
        )
    if changed := [key for key in {*now, *then} if now.get(key) != then.get(key)]:
        raise UserError(
            f"{folder} was trained with another {', '.join(changed)}, or by another version: "
            "delete it to start over, or set RUNS_DIR"
        )
    return state


def _checksum(file: h5py.File) -> int:
    """Returns a checksum of all arrays in a weights file and their paths; HDF5 itself keeps none."""
    sums = []

    def add(name, item):
        if isinstance(item, h5py.Dataset):
            sums.append((name, zlib.crc32(item[()])))

    file.visititems(add)
    return zlib.crc32(repr(sums).encode())


def save_checkpoint(model: keras.Model, state: State, folder: Path, networks: bool) -> None:
    """Writes the model's weights and `state`; if `networks`, first writes each of its networks as <name>.keras."""
    with atomic_write(folder / CHECKPOINT) as draft:
        # Checks that there is room for the weights and the optimizers' moments: on a full disk HDF5 crashes.
        if hasattr(os, "posix_fallocate"):  # not on macOS
            parts = [model, *(part for part in vars(model).values() if isinstance(part, keras.Optimizer))]
            size = sum(variable.numpy().nbytes for part in parts for variable in part.variables)
            with open(draft, "wb") as file:
                os.posix_fallocate(file.fileno(), 0, size + 2**20)
        model.save_weights(draft)
        with h5py.File(draft, "a") as file:
            file.attrs["state"] = json.dumps(state._replace(checksum=_checksum(file))._asdict())
        if networks:
            save_networks(model, folder, state.step)


def load_checkpoint(model: keras.Model, state: State, folder: Path) -> None:
    """Loads the weights of the checkpoint that has this `state`.

    Raises:
        UserError: The file is damaged or from another model.
    """
    path = folder / CHECKPOINT
    try:
        with h5py.File(path) as file:
            if state.checksum != _checksum(file):
                raise UserError(f"{path} is damaged (its checksum differs): delete {folder} to start over")
        model.load_weights(path)
    except (ValueError, OSError, KeyError, TypeError, RuntimeError) as error:
        if getattr(error, "errno", None):
            raise
        raise UserError(f"{path} does not match the networks of this run: delete {folder} to start over") from error


def save_networks(model: keras.Model, folder: Path, step: int) -> None:
    """Writes each of the model's networks as <name>.keras, or none if one can't be written.

    A .keras file is a zip; its comment tells the step.
    """
    with contextlib.ExitStack() as drafts:
        for name, network in model.networks().items():
            draft = drafts.enter_context(atomic_write(folder / f"{name}.keras"))
            network.save(draft)
            with zipfile.ZipFile(draft, "a") as file:
                file.comment = f"{step}".encode()


def load_network(path: Path) -> keras.Model:
    """Returns the network in a .keras file.

    Raises:
        UserError: The file is damaged.
    """
    open(path, "rb").close()  # says why it can't be opened, which Keras does not
    with reading(path, RETRY, tf.errors.OpError, ImportError), silenced():
        return keras.saving.load_model(path, compile=False)


def network_step(path: Path) -> int | None:
    """Returns the step that `save_networks` wrote a network at; None if that was an earlier version, which kept none.

    Raises:
        UserError: The file is damaged.
    """
    with reading(path, RETRY), zipfile.ZipFile(path) as file:
        return int(file.comment) if file.comment else None


def read_log(folder: Path) -> list[dict]:
    """Returns the lines of log.csv, as text by column, without an incomplete last one; an empty list if there is none.

    Raises:
        UserError: A line is damaged.
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


def by_step(folder: Path) -> dict[int, Path]:
    """Returns the files in `samples/` or `snapshots/` by the step that names them, in order; skips other files."""
    files = [path for path in sorted(folder.glob("*")) if path.suffix in (".png", ".keras")]
    return {int(path.stem): path for path in files if path.stem.isdecimal()}


def cut_back(folder: Path, step: int) -> None:
    """Removes from a run's folder everything after its checkpoint's `step`, and what killed processes left half."""
    for pattern in ("samples/~*", "snapshots/~*", "tensorboard/*/~*", "~*.keras", f"~*{CHECKPOINT}"):
        for draft in folder.glob(pattern):
            draft.unlink()
    for files in (by_step(folder / "samples"), by_step(folder / "snapshots")):
        for made, path in files.items():
            if made > step:
                path.unlink()
    for board in folder.glob("tensorboard/*"):
        if files := sorted(board.glob("events*")):
            _cut_events(files[-1], step)  # the latest by name; the others were cut when it was begun
    if rows := read_log(folder):
        with atomic_write(folder / "log.csv") as draft, open(draft, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(row for row in rows if int(row["step"]) <= step)


def _cut_events(path: Path, step: int) -> None:
    events = []
    with contextlib.suppress(tf.errors.DataLossError):  # the last event may have been cut short by a kill
        for event in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            events.append(event)
    kept = [event for event in events if tf.compat.v1.Event.FromString(event).step <= step]
    if len(kept) < len(events):
        with atomic_write(path) as draft, tf.io.TFRecordWriter(str(draft)) as writer:
            for event in kept:
                writer.write(event)
