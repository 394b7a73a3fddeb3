"""What happens between two steps of a training, one Keras callback for each thing.

They run in the order of `training.fit`, and share the `Step` and the logs, from which `Stop` removes "asked" and to
which `DevLoss` adds.
"""

import contextlib
import csv
import errno
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

    An interval is a fiftieth of the training, at most 500 steps; of trainings under 5,000 steps, 100 or a tenth.
    """

    def __init__(self, start: int, last: int):
        super().__init__()
        self.start, self.now, self.last = start, start, last
        self.interval = min(500, max(1, min(100, last // 10), last // 50))

    @property
    def ended(self) -> bool:
        return self.now >= self.last

    @property
    def due(self) -> bool:
        return self.ended or self.now % self.interval == 0

    def on_train_batch_end(self, batch, logs=None):
        self.now = min(self.start + batch + 1, self.last)  # the last execution may hold fewer steps
        self.model.reset_metrics()  # each line of the log is the mean over the steps since the line before
        if self.ended:
            self.model.stop_training = True


class DevLoss(Callback):
    """Adds the dev set's metrics to the logs, as "dev_<name>", of a model that has a `test_step`."""

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
    """Whether the model has a `test_step` of its own."""
    return type(model).test_step is not keras.Model.test_step


class Finite(Callback):
    """Raises FloatingPointError where a loss, or at the end of an interval a weight, is no finite number.

    The losses are those before the step's update, and can't show what it did to the weights.
    """

    def __init__(self, step: Step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        values = dict(logs)
        if self.step.due:
            values |= {weight.path: float(np.sum(weight.numpy())) for weight in self.model.weights}
        if wrong := [f"{name} is {float(value):g}" for name, value in values.items() if not math.isfinite(value)]:
            raise FloatingPointError(f"{', '.join(wrong)} at step {self.step.now:,}")


class Stop(Callback):
    """Ends the training on Ctrl-C or SIGTERM, from now on: after the step at whose end it sees the signal.

    The second signal ends it at once.
    """

    def __init__(self):
        super().__init__()
        self.signal = None
        self.handlers = {number: signal.signal(number, self.handle) for number in (signal.SIGINT, signal.SIGTERM)}
        self.asked = tf.Variable(0.0, trainable=False)  # of several workers: whether this one was told to stop

    def handle(self, number, frame):
        self.signal = number
        # Not by print, which fails if the signal comes while it prints.
        with contextlib.suppress(OSError):
            os.write(1, b"\nstopping after this step; once more to stop at once\n")
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
    """Writes a line of log.csv per execution, of one step or ten (`devices.tune`)."""

    def __init__(self, step: Step, folder: Path):
        super().__init__()
        self.step, self.path, self.file = step, folder / "log.csv", None

    def on_train_begin(self, logs=None):
        names = [metric.name for metric in self.model.metrics]
        dev = [f"dev_{name}" for name in names] if has_dev_loss(self.model) else []
        columns, rows = ["step", *names, *dev], checkpoint.read_log(self.path.parent)
        if rows and [*rows[0]] != columns:
            raise UserError(f"{self.path} has other columns, of another version: delete {self.path.parent}")
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
        except OSError as error:  # which does not name the file
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def close(self):
        with contextlib.suppress(OSError):  # of a full disk
            if self.file is not None:
                self.file.close()


class TensorBoard(Callback):
    """Shows the log in TensorBoard, the losses and the dev losses each as a run of their own."""

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
                # NumPy's, since TensorFlow keeps each number of Python's for ever: 6 kB a line.
                with writer.as_default(step=np.int64(self.step.now)):
                    tf.summary.scalar(name.removeprefix("dev_"), np.float32(value))
        except tf.errors.OpError as error:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder)) from error


class Bar(Callback):
    """A progress bar in a terminal, with the losses that have room beside the steps and the time left."""

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
    """Where there is no terminal: the losses and the time left at the end of an interval, and once a minute."""

    def __init__(self, step: Step):
        super().__init__()
        self.step = step

    def on_train_begin(self, logs=None):
        self.said, self.compiled = time.monotonic(), None

    def on_train_batch_end(self, batch, logs=None):
        now, step, left = time.monotonic(), self.step, ""
        if self.compiled is None:  # by the first execution, which is not the pace of the others
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
    """A sheet of samples from the same noise at the end of each interval; at some steps a snapshot of the network."""

    def __init__(self, step: Step, experiment: Experiment, generate: Callable):
        super().__init__()
        self.step, self.folder, self.seed, self.generate = step, experiment.folder, experiment.seed, generate
        # A run that is never finished has early ones to show.
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
    """Saves the checkpoint and the networks: now and then, before a stop, at the end, and after the best dev loss.

    A row with the key "keep" keeps the networks of the lowest value of that column of the log; before there is one, and
    without the key, the latest.
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
        with open(self.folder / "log.csv", "rb+") as log:
            os.fsync(log.fileno())  # the checkpoint is not to outlive it in a power cut
        state = self.state._replace(step=self.step.now, seconds=begun - self.begun, best=self.best)
        checkpoint.save_checkpoint(self.model, state, self.folder, networks)
        self.saved = time.monotonic()
        self.pause = max(30, 20 * (self.saved - begun))  # large networks take seconds to write
