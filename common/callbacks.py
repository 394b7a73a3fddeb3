"""What happens between two training steps, with one Keras callback per task.

They run in the order set in `training.fit`, and share the `Step` and the logs: `Stop` removes "asked" from the logs,
`DevLoss` adds to them.
"""

import contextlib
import csv
import math
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras.callbacks import Callback
from tqdm import tqdm

from common import checkpoint, devices, plots
from common.experiment import Experiment
from common.files import UserError, atomic_write, bar, say


class Step(Callback):
    """Counts the steps. The dev loss and the samples are `due` at the end of each interval and at the last step.

    An interval is a fiftieth of the training, at most 500 steps; in trainings under 5,000 steps, a tenth, at most 100.
    It is a multiple of ten if it can be, since an execution may run ten steps (see `devices.tune`).
    """

    def __init__(self, start: int, last: int):
        super().__init__()
        self.start, self.now, self.last = start, start, last
        interval = min(500, max(1, min(100, last // 10), last // 50))
        self.interval = interval // 10 * 10 or interval

    @property
    def ended(self) -> bool:
        return self.now >= self.last

    @property
    def due(self) -> bool:
        return self.ended or self.now % self.interval == 0

    def on_train_batch_end(self, batch, logs=None):
        self.now = min(self.start + batch + 1, self.last)  # the last execution may run fewer steps
        self.model.reset_metrics()  # each line of the log is the mean over the steps since the previous line
        if self.ended:
            self.model.stop_training = True


class DevLoss(Callback):
    """Adds the dev set's metrics to the logs as "dev_<name>", if the model defines a `test_step`."""

    def __init__(self, step: Step, images: np.ndarray):
        super().__init__()
        self.step, self.images = step, images

    def on_train_begin(self, logs=None):
        self.evaluate = devices.evaluation(self.model) if has_dev_loss(self.model) else None

    def on_train_batch_end(self, batch, logs=None):
        if self.step.due and self.evaluate:
            logs |= {f"dev_{name}": value for name, value in self.evaluate(self.images).items()}
            self.model.reset_metrics()


def has_dev_loss(model: keras.Model) -> bool:
    """Returns whether the model defines its own `test_step`."""
    return type(model).test_step is not keras.Model.test_step


class Finite(Callback):
    """Raises FloatingPointError if a loss is not finite."""

    def __init__(self, step: Step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        check_finite(logs, self.step.now)


def check_finite(values: dict, step: int) -> None:
    """Raises FloatingPointError if one of the values, by name, is not finite."""
    if wrong := [f"{name} is {float(value):g}" for name, value in values.items() if not math.isfinite(value)]:
        raise FloatingPointError(f"{', '.join(wrong)} at step {step:,}")


class Stop(Callback):
    """Once created, ends the training after the current step on Ctrl-C or SIGTERM.

    A second signal of the same kind ends it at once.
    """

    def __init__(self):
        super().__init__()
        self.signal = None
        self.handlers = {number: signal.signal(number, self.handle) for number in (signal.SIGINT, signal.SIGTERM)}
        self.asked = tf.Variable(0.0, trainable=False)  # with several workers: whether this one was told to stop

    def handle(self, number, frame):
        self.signal = number
        # Not with print, which fails if the signal interrupts another print.
        with contextlib.suppress(OSError):
            os.write(1, b"\nstopping after this step; repeat to stop at once\n")
        signal.signal(number, self.handlers[number])

    def on_train_batch_end(self, batch, logs=None):
        if "asked" in logs:  # see devices.join: all workers stop after the same step, so that none waits for another
            self.asked.assign(float(bool(self.signal)))
            if logs.pop("asked") > 0:
                self.signal = self.signal or signal.SIGTERM
                self.model.stop_training = True
        elif self.signal:
            self.model.stop_training = True

    def close(self):
        for number, handler in self.handlers.items():
            signal.signal(number, handler)


class Log(Callback):
    """Writes a line to log.csv per execution, which is one step or ten (see `devices.tune`)."""

    def __init__(self, step: Step, folder: Path):
        super().__init__()
        self.step, self.path, self.file = step, folder / "log.csv", None

    def on_train_begin(self, logs=None):
        names = [metric.name for metric in self.model.metrics]
        dev = [f"dev_{name}" for name in names] if has_dev_loss(self.model) else []
        columns, rows = ["step", *names, *dev], checkpoint.read_log(self.path.parent)
        if rows and [*rows[0]] != columns:
            raise UserError(f"{self.path} has other columns, from another version: delete {self.path.parent}")
        if self.step.start and (not rows or int(rows[-1]["step"]) != self.step.start):
            say(f"*** {self.path} lacks steps before {self.step.start:,}, and so will the curves")
        self.file = open(self.path, "a" if rows else "w", newline="")
        self.writer = csv.DictWriter(self.file, columns)
        if not rows:
            self.writer.writeheader()

    def on_train_batch_end(self, batch, logs=None):
        try:
            self.writer.writerow({"step": self.step.now} | {name: float(value) for name, value in logs.items()})
            self.file.flush()
        except OSError as error:  # does not name the file
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def close(self):
        with contextlib.suppress(OSError):  # the disk may be full
            if self.file is not None:
                self.file.close()


class TensorBoard(Callback):
    """Writes the log for TensorBoard, with the losses and the dev losses as separate runs."""

    def __init__(self, step: Step, folder: Path):
        super().__init__()
        self.step, self.folder = step, folder / "tensorboard"

    def on_train_begin(self, logs=None):
        names = ["train", "dev"] if has_dev_loss(self.model) else ["train"]
        self.writers = {name: tf.summary.create_file_writer(str(self.folder / name)) for name in names}

    def on_train_batch_end(self, batch, logs=None):
        try:
            for name, value in logs.items():
                writer = self.writers["dev" if name.startswith("dev_") else "train"]
                # NumPy numbers, since TensorFlow keeps every Python number forever: 6 kB per line.
                with writer.as_default(step=np.int64(self.step.now)):
                    tf.summary.scalar(name.removeprefix("dev_"), np.float32(value))
        except tf.errors.OpError as error:
            raise UserError(f"cannot write to {self.folder} ({error.message}): mend that, or set RUNS_DIR") from error


class Bar(Callback):
    """Shows a progress bar in a terminal: the steps, the time left and as many losses as fit."""

    def __init__(self, step: Step):
        super().__init__()
        self.step, self.bar = step, None

    def on_train_begin(self, logs=None):
        form = "{percentage:3.0f}%|{bar:10}| {n_fmt}/{total_fmt} [{remaining} left{postfix}]"
        self.bar = bar(total=self.step.last, initial=self.step.start, unit="step", mininterval=0.5, bar_format=form)
        total = f"{self.step.last}/{self.step.last}"
        self.room = self.bar.ncols - len(f"100%|{'':10}| {total} [00:00:00 left]")

    def on_train_batch_end(self, batch, logs=None):
        shown, room = [], self.room
        for metric in self.model.metrics:
            loss = f"{metric.name}={float(logs[metric.name]):.3g}"
            room -= len(f", {loss}")
            if room < 0:
                break
            shown.append(loss)
        self.bar.set_postfix_str(", ".join(shown), refresh=False)
        self.bar.update(self.step.now - self.bar.n)

    def close(self):
        with contextlib.suppress(OSError):
            if self.bar is not None:
                self.bar.close()


class Lines(Callback):
    """Without a terminal, prints the losses and the time left at the end of each interval and once a minute."""

    def __init__(self, step: Step):
        super().__init__()
        self.step = step

    def on_train_begin(self, logs=None):
        self.said, self.compiled = time.monotonic(), None

    def on_train_batch_end(self, batch, logs=None):
        now, step, left = time.monotonic(), self.step, ""
        if self.compiled is None:  # by the first execution, so its pace does not count
            self.compiled = now, step.now
        else:
            pace = (now - self.compiled[0]) / (step.now - self.compiled[1])
            left = f"{tqdm.format_interval(pace * (step.last - step.now))} left  "
        if step.due or now - self.said > 60:
            self.said = now
            names = [metric.name for metric in self.model.metrics]  # Keras sorts the logs by name
            names += [f"dev_{name}" for name in names if f"dev_{name}" in logs]
            values = "  ".join(f"{name} {float(logs[name]):.4g}" for name in names)
            say(f"  step {step.now:,} of {step.last:,}  {left}{values}")


class Samples(Callback):
    """Draws samples from the same noise at the end of each interval, and saves some snapshots of the network."""

    def __init__(self, step: Step, experiment: Experiment, generate: Callable):
        super().__init__()
        self.step, self.folder, self.seed, self.generate = step, experiment.folder, experiment.seed, generate
        # Early ones, too, for runs that are never finished.
        percents = (1, 2, 5, *range(0, 100, 10))
        rounds = [math.ceil(step.last * percent / 100 / step.interval) for percent in percents]
        self.snapshots = {step.interval * number for number in rounds}

    def on_train_begin(self, logs=None):
        if self.step.start == 0:
            self.draw()

    def on_train_batch_end(self, batch, logs=None):
        if self.step.due:
            self.draw()

    def draw(self):
        network, now = next(iter(self.model.networks().values())), self.step.now
        images = self.generate(network, 64, self.seed)
        for path in (self.folder / "samples" / f"{now:08}.png", self.folder / "samples.png"):
            plots.samples(images, path)
        if now in self.snapshots or self.step.ended:
            with atomic_write(self.folder / "snapshots" / f"{now:08}.keras") as draft:
                network.save(draft)


class Checkpoint(Callback):
    """Saves the checkpoint and the networks: periodically, before a stop, at the end and at each new best dev loss.

    If a row has the key "keep", the saved networks are those with the lowest value in that column of the log; without
    the key, or before there is a value, they are the latest.

    Raises FloatingPointError, and saves nothing, if a weight is not finite. The losses can't show it: they are computed
    before the step's update, and a ReLU may turn NaN into 0.
    """

    def __init__(self, step: Step, experiment: Experiment, state: checkpoint.State):
        super().__init__()
        self.step, self.folder, self.keep = step, experiment.folder, experiment.row.get("keep")
        self.state, self.best = state, state.best

    def on_train_begin(self, logs=None):
        self.saved, self.pause = time.monotonic(), 30
        self.begun = self.saved - self.state.seconds

    def on_train_batch_end(self, batch, logs=None):
        value = logs.get(self.keep)
        improved = value is not None and (self.best is None or value < self.best[0])
        if improved:
            self.best = value, self.step.now
        if self.model.stop_training or improved or time.monotonic() - self.saved > self.pause:
            self.save(networks=improved or not self.keep or self.best is None)

    def save(self, networks: bool):
        begun = time.monotonic()
        check_finite({weight.path: np.sum(weight.numpy()) for weight in self.model.weights}, self.step.now)
        with open(self.folder / "log.csv", "rb+") as log:
            os.fsync(log.fileno())  # after a power cut, the checkpoint must not be ahead of the log
        state = self.state._replace(step=self.step.now, seconds=begun - self.begun, best=self.best)
        checkpoint.save_checkpoint(self.model, state, self.folder, networks)
        self.saved = time.monotonic()
        self.pause = max(30, 20 * (self.saved - begun))  # large networks take seconds to write
