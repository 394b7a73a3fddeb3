"""What every train.py and test.py does around its model: rows and folders, resuming, logging, saving.

On a CPU a run is a function of its row and its seed: stopped at any moment and resumed, it ends in the same weights.
"""

import contextlib
import csv
import errno
import fcntl
import functools
import importlib.metadata
import inspect
import json
import math
import os
import platform
import shlex
import shutil
import signal
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import h5py
import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from common import data, devices, fid, plots, silenced
from common.data import whole

# As the scripts want it, whatever the user's keras.json says.
keras.config.set_image_data_format("channels_last")
keras.config.set_floatx("float32")
tf.get_logger().setLevel("ERROR")
# It makes one AddN of a metric's sum of sums, which adds in the order in which memory comes free: the log's last bits
# would differ from run to run.
tf.config.optimizer.set_experimental_options({"arithmetic_optimization": False})
# Keras means to remember which attributes of an optimizer it does not save, but looks under another name than it keeps
# them. So each checkpoint made a new optimizer to look at, and TensorFlow keeps its variables' names: 140 kB for two.
with contextlib.suppress(ImportError, AttributeError):
    from keras.src.saving import saving_lib

    saving_lib.get_attr_skipset = functools.cache(saving_lib.get_attr_skipset)

CHECKPOINT = "checkpoint.weights.h5"
# Counts up when test.py's measures change, so that run_all.sh calls it anew.
MEASURES = 2
# The keys of a row that are read here; so is batches_per_step, which is the model's too.
OURS = ("dataset", "labels", "batch_size", "steps", "keep", "reported")


class Run(NamedTuple):
    script: Path  # the folder of train.py and test.py
    name: str  # of the row
    row: dict
    seed: int
    steps: int  # to do; row["steps"] unless STEPS says otherwise
    folder: Path

    @property
    def hyper(self) -> dict:
        """What of the row goes to `build`."""
        return {key: value for key, value in self.row.items() if key not in OURS}

    @property
    def title(self) -> str:
        return f"{self.script.name} {self.name}"

    def command(self, file: str) -> str:
        """What to type for the run's train.py or test.py."""
        names = ("DATA_DIR", "RUNS_DIR", "SEED", "STEPS", *(["TF_CONFIG"] if file == "train.py" else []))
        variables = [f"{name}={shlex.quote(os.environ[name])}" for name in names if os.environ.get(name)]
        return " ".join([*variables, "python", shlex.quote(os.path.relpath(self.script / file)), self.name])

    def siblings(self, runs: dict, source: str) -> dict[str, Path]:
        """By name, the folders of all rows trained on the images `source`, of the same SEED and STEPS."""
        suffix, found = self.folder.name.removeprefix(self.name), {}
        for name in runs:
            folder = self.folder.with_name(name + suffix)
            with contextlib.suppress(data.UserError):  # a damaged one
                state = read_state(folder)
                if state and state.row["images"] == source:
                    found[name] = folder
        return found


def select(runs: dict, function: Callable) -> Run:
    """The run that the command line and SEED, STEPS and RUNS_DIR ask for, of the script that defines `function`.

    Raises:
        UserError: there is no such row, or a variable is not a number.
    """
    script = Path(inspect.getfile(function)).resolve().parent
    return named(script, runs, " ".join(sys.argv[1:]) or next(iter(runs)))


def named(script: Path, runs: dict, name: str) -> Run:
    """As `select`, of a script's folder and the name of a row."""
    if name not in runs:
        raise data.UserError(f"no run {name!r} in {script.name}: choose one of {', '.join(runs)}")
    seed, steps = number("SEED", 0, 0), number("STEPS", runs[name]["steps"], 1)
    folder = name + f"-seed{seed}" * (seed != 0) + f"-steps{steps}" * (steps != runs[name]["steps"])
    parent = Path(os.environ.get("RUNS_DIR") or data.ROOT / "runs")
    return Run(script, name, runs[name], seed, steps, parent / script.name / folder)


def number(variable: str, default: int, least: int) -> int:
    """An environment variable's whole number of at least `least`; `default` where it is unset."""
    text = os.environ.get(variable) or str(default)
    if not text.isdecimal() or len(text) > 9 or int(text) < least:
        raise data.UserError(f"{variable}={text[:20]} is not a whole number from {least} to 999999999")
    return int(text)


@contextlib.contextmanager
def one_line_errors():
    """Turns what the user can mend into one line and exit code 2."""
    try:
        yield
    except data.UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except devices.LOST as error:
        if not os.environ.get("TF_CONFIG"):
            raise
        print(
            f"error: this worker has lost another ({error.message.splitlines()[0]}): start all again", file=sys.stderr
        )
        sys.exit(1)
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


class State(NamedTuple):
    """What the checkpoint holds beside the weights."""

    step: int
    seconds: float  # of training, over all sessions
    row: dict
    seed: int
    best: tuple[float, int] | None = None  # the lowest value of the log's column row["keep"], and its step
    checksum: int | None = None  # of the file's arrays


def read_state(folder: Path) -> State | None:
    """What the run's checkpoint says of itself; None without a checkpoint."""
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    try:
        with h5py.File(path) as file:
            return State(**json.loads(file.attrs["state"]))
    except TypeError as error:
        raise data.UserError(
            f"{path} is of another version ({error}): delete {folder} to start anew, or set RUNS_DIR"
        ) from error
    except (OSError, KeyError, ValueError) as error:
        if getattr(error, "errno", None):  # not of the file's contents
            raise
        raise data.UserError(f"{path} is damaged ({error}): delete {folder} to start anew") from error


def checksum(file: h5py.File) -> int:
    """Of all arrays of a weights file, their names and places; HDF5 itself keeps none."""
    sums = []

    def add(name, item):
        if isinstance(item, h5py.Dataset):
            sums.append((name, zlib.crc32(item[()])))

    file.visititems(add)
    return zlib.crc32(repr(sums).encode())


def load_weights(model: keras.Model, state: State, run: Run) -> None:
    """Those of the run's checkpoint, whose state is `state`.

    Raises:
        UserError: the file is damaged, or of another model.
    """
    path = run.folder / CHECKPOINT
    try:
        with h5py.File(path) as file:
            if state.checksum not in (None, checksum(file)):
                raise data.UserError(f"{path} is damaged (its checksum differs): delete {run.folder} to start anew")
        model.load_weights(path)
    except (ValueError, OSError, KeyError, TypeError) as error:
        if getattr(error, "errno", None):
            raise
        raise data.UserError(f"{path} does not fit the networks of {run.name}: delete {run.folder}") from error


class Recorder(keras.callbacks.Callback):
    """Everything that happens between two steps: the log, the dev loss, pictures, checkpoints, the terminal."""

    def __init__(self, run: Run, state: State, generate: Callable, dev: np.ndarray, chief: bool):
        super().__init__()
        self.run, self.state, self.generate, self.dev, self.chief = run, state, generate, dev, chief
        self.asked = tf.Variable(0.0, trainable=False)  # of several workers: whether this one was told to stop
        self.step, self.best, self.stopped_by = state.step, state.best, None
        self.rows, self.handlers, self.file, self.bar = [], {}, None, None
        # Steps between two dev losses: a fiftieth of the run, but for short runs and for long ones.
        self.round = min(500, max(1, min(100, run.steps // 10), run.steps // 50))
        # A run that is never finished has early ones to show.
        percents = (1, 2, 5, *range(0, 100, 10))
        self.snapshots = {math.ceil(run.steps * percent / 100 / self.round) * self.round for percent in percents}

    def on_train_begin(self, logs=None):
        self.names = [metric.name for metric in self.model.metrics]
        self.has_dev = type(self.model).test_step is not keras.Model.test_step
        self.evaluate = devices.evaluation(self.model)
        columns, lines = shutil.get_terminal_size()  # unlike tqdm's own look, never 0
        self.bar = tqdm(
            total=self.run.steps, initial=self.step, unit="step", file=sys.stdout, disable=not sys.stdout.isatty(),
            mininterval=0.5, ncols=columns, nrows=lines,
            bar_format="{percentage:3.0f}%|{bar:10}| {n_fmt}/{total_fmt} [{remaining} left{postfix}]",
        )  # fmt: skip
        self.saved = self.said = time.monotonic()
        self.pause, self.compiled = 30, None
        self.started = time.monotonic() - self.state.seconds
        self.handlers = {number: signal.signal(number, self.stop) for number in (signal.SIGINT, signal.SIGTERM)}
        if self.chief:
            self.open()
            if self.step == 0:
                self.frame()

    def open(self):
        """The log and TensorBoard's files."""
        folder = self.run.folder
        fields = ["step", *self.names, *(f"dev_{name}" for name in self.names if self.has_dev)]
        # What goes beyond the checkpoint is cut back to it: in the log no line twice, none missing.
        rows = [row for row in read_log(folder) if int(row["step"]) <= self.step]
        if rows and [*rows[0]] != fields:
            raise data.UserError(f"{folder / 'log.csv'} has other columns, of another version: delete {folder}")
        if self.step and (not rows or int(rows[-1]["step"]) != self.step):
            print(f"*** {folder / 'log.csv'} lacks steps before the checkpoint's, {self.step:,}: the curves will, too")
        for path in (*(folder / "samples").glob("[0-9]*"), *(folder / "snapshots").glob("[0-9]*")):
            if int(path.stem) > self.step:
                path.unlink()
        for path in (folder / "tensorboard").glob("*/events*"):
            cut(path, self.step)
        with whole(folder / "log.csv") as draft, open(draft, "w", newline="") as file:
            writer = csv.DictWriter(file, fields)
            writer.writeheader()
            writer.writerows(rows)
        self.file = open(folder / "log.csv", "a", newline="")
        self.log = csv.DictWriter(self.file, fields)
        boards = ["train", "dev"] if self.has_dev else ["train"]
        self.boards = {name: tf.summary.create_file_writer(str(folder / "tensorboard" / name)) for name in boards}

    def stop(self, number, frame):
        """The first Ctrl-C or SIGTERM ends the run after this step, the second at once."""
        self.stopped_by = number
        # Not by print, which fails if the signal comes while it prints.
        os.write(1, b"\nstopping after this step; once more to stop at once\n")
        signal.signal(number, self.handlers[number])

    def on_train_batch_end(self, batch, logs=None):
        self.step = min(self.state.step + batch + 1, self.run.steps)  # the last execution may hold fewer steps
        self.compiled = self.compiled or (time.monotonic(), self.step)
        row = {"step": self.step, **{name: float(logs[name]) for name in self.names}}
        last = self.step >= self.run.steps
        self.bar.set_postfix({name: f"{row[name]:.3g}" for name in self.names}, refresh=False)
        self.bar.update(self.step - self.bar.n)
        due = last or self.step % self.round == 0
        if due and self.has_dev:
            row |= {f"dev_{name}": value for name, value in self.evaluate(self.dev).items()}
        self.finite(row)
        if due:
            self.finite_weights()
        if self.chief:
            self.rows.append(row)
        self.model.reset_metrics()  # each line of the log is the mean over the steps since the line before
        if due and self.chief:
            self.frame()
        keep = self.run.row.get("keep")
        improved = due and keep and (self.best is None or row[keep] < self.best[0])
        if improved:
            self.best = row[keep], self.step
        if not sys.stdout.isatty() and (due or time.monotonic() - self.said > 60):
            self.said = time.monotonic()
            values = "  ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "step")
            print(f"  step {self.step:,} of {self.run.steps:,}  {self.left()}{values}", flush=True)
        if "asked" in logs:  # all workers stop after the same step, so that none waits for another
            self.asked.assign(float(bool(self.stopped_by)))
            stop = logs["asked"] > 0
            self.stopped_by = self.stopped_by or (signal.SIGTERM if stop else None)
        else:
            stop = self.stopped_by
        if self.chief and (last or improved or stop or time.monotonic() - self.saved > self.pause):
            # Of a row that keeps the best networks, those; before there is a best, the latest.
            self.save(networks=improved or not keep or self.best is None)
        if last or stop:
            self.model.stop_training = True

    def finite(self, row: dict[str, float]):
        """Raises FloatingPointError if one of the values is not a finite number."""
        wrong = [f"{name} is {value:g}" for name, value in row.items() if not math.isfinite(value)]
        if wrong:
            raise FloatingPointError(f"{', '.join(wrong)} at step {self.step:,}")

    def finite_weights(self):
        """As `finite`; the losses are those before the step's update, and can't show what it did to the weights."""
        self.finite({weight.path: float(np.sum(weight.numpy())) for weight in self.model.weights})

    def left(self) -> str:
        """Time left, as "h:mm:ss left  ", at the mean speed since the first execution, which compiles; then empty."""
        seconds, steps = time.monotonic() - self.compiled[0], self.step - self.compiled[1]
        return f"{tqdm.format_interval(seconds / steps * (self.run.steps - self.step))} left  " if steps else ""

    def frame(self):
        """A sample sheet from the same noise each time, and for the snapshots the network that drew it."""
        network = next(iter(self.model.networks().values()))
        images = self.generate(network, 64, self.run.seed)
        for path in (self.run.folder / "samples" / f"{self.step:08}.png", self.run.folder / "samples.png"):
            draw_samples(images, path)
        if self.step in self.snapshots or self.step >= self.run.steps:
            with whole(self.run.folder / "snapshots" / f"{self.step:08}.keras") as draft:
                network.save(draft)

    def save(self, networks: bool):
        """The log and, where asked for, the networks, then the checkpoint that says how far they go."""
        begun = time.monotonic()
        self.finite_weights()
        try:
            for row in self.rows:
                self.log.writerow(row)
                for name, board in self.boards.items():
                    prefix = "dev_" if name == "dev" else ""
                    # NumPy's, since TensorFlow keeps each number of Python's for ever: 6 kB a line.
                    with board.as_default(step=np.int64(row["step"])):
                        for metric in self.names:
                            if prefix + metric in row:
                                tf.summary.scalar(metric, np.float32(row[prefix + metric]))
            self.rows = []
            self.file.flush()
            os.fsync(self.file.fileno())  # the checkpoint is not to outlive it in a power cut
            for board in self.boards.values():
                board.flush()
        except (OSError, tf.errors.OpError) as error:  # neither names a file, TensorFlow's no number either
            number = getattr(error, "errno", None) or errno.ENOSPC
            raise OSError(number, os.strerror(number), str(self.run.folder / "log.csv")) from error
        state = self.state._replace(step=self.step, seconds=time.monotonic() - self.started, best=self.best)
        with whole(self.run.folder / CHECKPOINT) as draft:
            # A look whether there is room for the weights and Adam's two moments: without it HDF5 crashes.
            if hasattr(os, "posix_fallocate"):  # not on macOS
                with open(draft, "wb") as file:
                    os.posix_fallocate(file.fileno(), 0, 3 * sum(w.numpy().nbytes for w in self.model.weights) + 2**20)
            self.model.save_weights(draft)
            with h5py.File(draft, "a") as file:
                file.attrs["state"] = json.dumps(state._replace(checksum=checksum(file))._asdict())
            if networks:  # named just before the checkpoint, so that a kill hardly finds them of different steps
                save_networks(self.model, self.run.folder)
        self.saved = time.monotonic()
        self.pause = max(30, 20 * (self.saved - begun))  # large networks take seconds to write

    def close(self):
        """Also right after an exception in `on_train_begin`, or a full disk."""
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        for opened in (self.bar, self.file):
            if opened is not None:
                with contextlib.suppress(OSError):  # of what could not be written, again
                    opened.close()


def cut(path: Path, step: int) -> None:
    """Takes what is beyond `step` out of a file of TensorBoard's."""
    events = []
    with contextlib.suppress(tf.errors.DataLossError):  # the last of which a kill may have cut short
        for event in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            events.append(event)
    kept = [event for event in events if tf.compat.v1.Event.FromString(event).step <= step]
    if len(kept) < len(events):
        with whole(path) as draft, tf.io.TFRecordWriter(str(draft)) as writer:
            for event in kept:
                writer.write(event)


def draw_samples(images: np.ndarray, path: Path) -> None:
    """A sheet of images, without a frame around it."""
    with whole(path) as draft:
        keras.utils.save_img(draft, plots.sheet(images), scale=False)


def save_networks(model: keras.Model, folder: Path) -> None:
    """Writes each of the model's networks as <name>.keras; where one can't be written, none."""
    with contextlib.ExitStack() as drafts:
        for name, network in model.networks().items():
            network.save(drafts.enter_context(whole(folder / f"{name}.keras")))


def load_network(path: Path) -> keras.Model:
    """The network of a .keras file.

    Raises:
        UserError: the file is damaged.
    """
    try:
        with silenced():
            return keras.saving.load_model(path, compile=False)
    except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
        raise data.UserError(f"{path} is damaged: delete it, and call the same again") from error


def read_log(folder: Path) -> list[dict]:
    """The lines of a run's log.csv, as text by column; empty where there is none.

    Raises:
        UserError: a line is damaged.
    """
    path = folder / "log.csv"
    if not path.is_file():
        return []
    with open(path, newline="") as file:  # whose last line a kill may have cut short
        rows = list(csv.DictReader(line for line in file if line.endswith("\n")))
    for number, row in enumerate(rows, 2):
        try:
            int(row["step"])
            [value == "" or float(value) for value in row.values()]
        except (KeyError, TypeError, ValueError) as error:
            raise data.UserError(f"{path} is damaged in line {number}: delete that line") from error
    return rows


def train(runs: dict, build: Callable, generate: Callable, curves: dict) -> None:
    """Trains the row that the command line names, or goes on with it, and leaves the results in its folder.

    Args:
        runs: the rows; the keys OURS are read here, the rest goes to `build`.
        build: `build(image_shape, seed=..., **row)` gives a compiled model, whose `networks()` are saved by name.
        generate: `generate(network, count, seed)` draws uint8 images (count, H, W, C) from the first of `networks()`.
        curves: the panels of curves.png, the columns of log.csv by the label of their axis.
    """
    with one_line_errors(), contextlib.ExitStack() as held:
        run = select(runs, build)
        strategy = devices.strategy()
        count, (worker, workers) = strategy.num_replicas_in_sync, devices.worker(strategy)
        if run.row["batch_size"] % count:
            raise data.UserError(
                f"{count} devices can't share a batch of {run.row['batch_size']} equally: "
                "choose some with CUDA_VISIBLE_DEVICES, or another TF_CONFIG"
            )
        images = data.load(run.row["dataset"])
        if not worker:  # of several workers the chief alone writes
            held.enter_context(own_folder(run))
            # Drafts of one that was killed.
            for part in ("samples/~*", "snapshots/~*", "tensorboard/*/~*", "~*.keras", f"~*{CHECKPOINT}"):
                for draft in run.folder.glob(part):
                    draft.unlink()
        state = begin(run, images.source)
        describe(run, images)
        if count > 1:
            which = f" of {workers} workers; this is worker {worker}" if workers > 1 else ""
            print(f"  sharing each batch among {count} devices{which}", flush=True)
        if workers > 1 and not devices.agree(strategy, run.title, run.seed, run.steps, state, len(images.train.images)):
            raise data.UserError(
                f"another worker has another run, SEED, STEPS or dataset than this one, or finds another state than "
                f"step {state.step:,} in its RUNS_DIR: all need the same, and one folder"
            )
        with silenced(), strategy.scope():
            model = build(images.train.images.shape[1:], seed=run.seed, **run.hyper)
            if state.step:
                load_weights(model, state, run)
        stopped_by = None
        if state.step >= run.steps:
            print(f"  trained already, {run.steps:,} steps; to train anew, delete {run.folder}")
            if not state.best and not worker:
                save_networks(model, run.folder)  # as this version writes them
        else:
            if state.step:
                print(f"  going on from step {state.step:,}")
            stopped_by = fit(run, state, model, images, generate)
        if not worker:
            draw_training(run, curves)
        if stopped_by:
            print(f"stopped before the end; to go on: {run.command('train.py')}")
            sys.exit(128 + stopped_by)
        print(f"done: samples.png, training.gif, curves.png and the trained networks are in {run.folder}")
        print(f"next: {run.command('test.py')}")


class InUse(data.UserError):
    """A run's folder is held."""


@contextlib.contextmanager
def own_folder(run: Run) -> Iterator[None]:
    """Makes the run's folder, and holds it against another train.py, until the process ends if not before.

    Raises:
        UserError: it can't be written to.
        InUse: another train.py holds it.
    """
    try:
        for part in ("samples", "snapshots"):
            (run.folder / part).mkdir(parents=True, exist_ok=True)
        held = open(run.folder / ".lock", "w")
    except OSError as error:
        raise data.UserError(
            f"cannot write to {run.folder} ({error.strerror}): set RUNS_DIR to a folder that can be written"
        ) from error
    with held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InUse(f"another train.py is at work in {run.folder}: wait for it, or set RUNS_DIR") from error
        except OSError as error:
            print(f"*** {run.folder} can't be locked ({error.strerror}): see that no second train.py works in it")
        yield


def begin(run: Run, source: str) -> State:
    """The state to go on from, with the images that `source` names.

    Raises:
        UserError: the folder holds another run.
    """
    row = {key: value for key, value in run.row.items() if key != "reported"} | {"images": source}
    state = read_state(run.folder) or State(0, 0.0, row, run.seed)
    now, then = ({**r, "seed": seed} for r, seed in ((row, run.seed), (state.row, state.seed)))
    if now["images"] != then.get("images"):
        raise data.UserError(
            f"{run.folder} was trained on {then.get('images')}, but here is {now['images']}: "
            "set DATA_DIR as then, or choose another RUNS_DIR"
        )
    if changed := [key for key in {*now, *then} if now.get(key) != then.get(key)]:
        raise data.UserError(
            f"{run.folder} was trained with another {', '.join(changed)}, or by another version: "
            "delete it to start anew, or set RUNS_DIR"
        )
    return state


def describe(run: Run, images: data.Dataset) -> None:
    """Says what runs, on which data and device, and where it goes."""
    counts = ", ".join(f"{len(part.images):,} {name}" for name, part in images.splits().items())
    shape = "x".join(map(str, images.train.images.shape[1:]))
    device = ", ".join(tf.config.experimental.get_device_details(d).get("device_name", d.name) for d in devices.GPUS)
    each = f"{run.row['batches_per_step']} x " if "batches_per_step" in run.row else ""
    print(f"{run.title}: {run.steps:,} steps of batch {each}{run.row['batch_size']}, seed {run.seed}")
    print(f"  data    {images.source} of {images.origin}: {counts} images of {shape}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()  # macOS has no such
    print(f"  device  {device or f'CPU, {cores} core' + 's' * (cores > 1)}")
    print(f"  folder  {run.folder}", flush=True)
    if not devices.GPUS and Path("/dev/nvidia0").exists():
        print("  There is an NVIDIA GPU, but TensorFlow can't use it: pip install -e '.[gpu]'")


def batches(run: Run, images: data.Dataset, start: int) -> tf.data.Dataset:
    """The run's batches from step `start` on."""
    row = run.row
    labels = images.train.targets(row["labels"], images.names) if "labels" in row else None
    size = row["batch_size"] * row.get("batches_per_step", 1)
    return data.batches(images.train.images, size, run.seed, start, run.steps, labels)


def fit(run: Run, state: State, model: keras.Model, images: data.Dataset, generate: Callable) -> int | None:
    """Trains `model` from `state.step` to `run.steps`, or until a signal, whose number it then returns."""
    strategy = model.distribute_strategy
    recorder = Recorder(run, state, generate, images.dev.images, devices.worker(strategy)[0] == 0)
    devices.join(model, strategy, recorder.asked)
    # (Steps done on several devices may be no multiple of ten.)
    devices.tune(model, images.train.images.shape[1:], math.gcd(recorder.round, state.step), strategy)
    try:
        model.fit(devices.shares(batches(run, images, state.step), strategy), callbacks=[recorder], verbose=0)
    except FloatingPointError as error:
        kept = read_state(run.folder)
        left = f"the checkpoint of step {kept.step:,} is kept in {run.folder}" if kept else "there is no checkpoint yet"
        raise SystemExit(f"error: {error}; {left}") from error
    finally:
        recorder.close()
    return recorder.stopped_by if recorder.step < run.steps else None


def draw_training(run: Run, curves: dict) -> None:
    """The figures of the training itself."""
    plots.curves(read_log(run.folder), curves, run.folder / "curves.png", run.title)
    plots.gif(sorted((run.folder / "samples").glob("[0-9]*.png")), run.folder / "training.gif")


def latent_space(run: Run, images: data.Dataset, to_images: Callable, latent_dim: int) -> dict:
    """Draws the latent grids into the run's folder; returns the numbers of `fid.interpolation`.

    Args:
        to_images: codes (n, latent_dim), of N(0, I), to uint8 images (n, H, W, C).
    """
    corners = tf.random.stateless_normal([4, latent_dim], [run.seed, -3]).numpy()
    plots.latent_grids(to_images, corners, run.folder, run.title)
    real = images.test.images
    return fid.interpolation(to_images, latent_dim, real, run.row["dataset"], run.seed, min(1000, len(real)))


def beside(run: Run, runs: dict, source: str, by_step: dict[int, float]) -> dict[str, dict[int, float]]:
    """The FID by step of the run, and that of its siblings which were measured before, by name."""
    found = {name: {} for name in runs}  # in the order of the rows
    for name, folder in run.siblings(runs, source).items():
        with contextlib.suppress(OSError, ValueError, KeyError):  # not there, or damaged
            metrics = json.loads((folder / "metrics.json").read_text())
            found[name] = {int(step): value for step, value in metrics["FID by step"].items()}
    found[run.name] = by_step
    return {name: values for name, values in found.items() if values}


def test(runs: dict, networks: tuple[str, ...], generate: Callable, curves: dict, report: Callable) -> None:
    """Measures what `train` left of the row that the command line names, draws its figures, writes metrics.json.

    Args:
        runs: as for `train`.
        networks: the names of the networks to load, the first that which `generate` draws from.
        generate, curves: as for `train`.
        report: `report(run, networks, images)` draws the model's own figures into `run.folder` and returns its own
            numbers or words, or dicts of them; `networks` by name, `images` a `data.Dataset`.
    """
    with one_line_errors():
        run = select(runs, report)
        state = read_state(run.folder)
        if state is None:
            raise data.UserError(f"nothing is trained in {run.folder}; first: {run.command('train.py')}")
        dataset = run.row["dataset"]
        images = data.load(dataset)
        while True:
            state = begin(run, images.source)
            if missing := [name for name in networks if not (run.folder / f"{name}.keras").is_file()]:
                remedy = f"delete {run.folder} and train anew" if state.best else f"first: {run.command('train.py')}"
                raise data.UserError(f"{missing[0]}.keras is gone from {run.folder}; {remedy}")
            loaded = {name: load_network(run.folder / f"{name}.keras") for name in networks}
            if begin(run, images.source) == state:
                break  # else a train.py at work has just saved
        describe(run, images)
        kept = f"; measured is step {state.best[1]:,}, of the lowest {run.row['keep']}" if state.best else ""
        print(f"  state   {state.step:,} of {run.steps:,} steps done{kept}")
        network = networks[0]

        real = images.test.images
        count = min(10_000, len(real))
        print(f"  measuring {count:,} generated images", flush=True)
        # The dev images, which no network was trained on, show what real images reach: the scale of the numbers.
        sets = {"generated": generate(loaded[network], count, run.seed), "real": images.dev.images}
        generated, floor = fid.measure(sets, real, images.train.images, dataset).values()
        dev = fid.classifier_features(images.dev.images, dataset)
        step = state.best[1] if state.best else state.step

        def distance(drawer):
            return fid.frechet_distance(dev, fid.classifier_features(generate(drawer, len(dev), run.seed), dataset))

        snapshots = {int(path.stem): path for path in (run.folder / "snapshots").glob("[0-9]*.keras")}
        snapshots = {number: path for number, path in snapshots.items() if number <= state.step}
        by_step = {
            number: distance(loaded[network] if number == step else load_network(snapshots[number]))
            for number in sorted({*snapshots, step})
        }
        title = f"{run.title}: {len(dev):,} samples against the dev set"
        plots.fid_by_step(beside(run, runs, images.source, by_step), run.folder / "fid_by_step.png", title)
        print("  drawing", flush=True)
        draw_samples(generate(loaded[network], 64, run.seed), run.folder / "samples.png")  # of the step measured
        draw_training(run, curves)
        own = report(run, loaded, images)

        metrics = {
            "model": run.script.name,
            "run": run.name,
            "dataset": images.source,
            "images": {name: len(part.images) for name, part in images.splits().items()} | {"generated": count},
            "steps": state.step,
            "steps_planned": run.row["steps"],
            "step measured": step,
            "seed": run.seed,
            "seconds": round(state.seconds, 1),
            "measures": MEASURES,
            "extractors": {
                "classifier": f"the {dataset} classifier of common/fid.py, 128 features",
                "Inception": generated["FID (Inception)"] and "TF-GAN's Inception of TF-Hub, pool_3, 2048 features",
            },
            "metrics": generated,
            "real dev images": floor,
            "own": own,
            "FID by step": by_step,
            "reported": run.row["reported"],
            "versions": {"python": platform.python_version()}
            | {name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "tensorflow-gan")},
        }
        with whole(run.folder / "metrics.json") as draft:
            draft.write_text(json.dumps(metrics, indent=1, allow_nan=False) + "\n")
        print(f"  {'':46}{'generated':>12}{'real':>12}")
        for name, value in (generated | own).items():
            if isinstance(value, dict):
                continue  # for metrics.json alone
            cells = (
                "" if cell is None else cell if isinstance(cell, str) else f"{cell:.5g}"
                for cell in (value, floor.get(name))
            )
            print("  {:46}{:>12}{:>12}".format(name, *cells))
        for report_name, figures in run.row["reported"].items():
            figures = ", ".join(f"{key} {value}" for key, value in figures.items())
            if figures:
                print(f"  report {report_name} wrote {figures}; of a FID it states no extractor: not to be compared")
        if state.step < run.steps:
            print(f"  UNFINISHED: {state.step:,} of {run.steps:,} steps done; these are the numbers of step {step:,}")
        print(f"done: metrics.json and the figures are in {run.folder}")
