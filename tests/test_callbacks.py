"""What happens between two steps: the log, the bar, checkpoints, signals and losses that are no numbers."""

import os
import re
import signal
import sys
import types
from pathlib import Path

import keras
import numpy as np
import pytest
from scripts import ROOT, Screen, train_here, with_model

import dcgan.train
import vae.train
from common import callbacks, checkpoint
from common.checkpoint import State
from common.experiment import Experiment


@pytest.mark.parametrize(
    ("steps", "interval", "snapshots"),
    [
        (25_000, 500, [0, 500, 1_500, *range(2_500, 25_000, 2_500)]),
        (10_000, 200, [0, 200, 600, *range(1_000, 10_000, 1_000)]),
        (2_000, 100, [0, 100, *range(200, 2_000, 200)]),
        (999, 90, [*range(0, 901, 90)]),  # in tens, as many as an execution may run
        (187_500, 500, [0, 2_000, 4_000, 9_500, 19_000, 37_500, 56_500, 75_000, 94_000, 112_500, 131_500, 150_000,
                        169_000]),
        (7, 1, [*range(8)]),
    ],
)  # fmt: skip
def test_the_steps_of_dev_losses_and_snapshots(steps, interval, snapshots):
    """Snapshots come at 1, 2 and 5%, then every 10%, each rounded up to the next dev loss."""
    step = callbacks.Step(0, steps)
    samples = callbacks.Samples(step, Experiment(ROOT, "row", {}, 0, steps, ROOT), None)
    assert step.interval == interval and sorted(samples.snapshots) == snapshots


def test_a_signal_that_comes_while_something_is_printed(monkeypatch, capfd):
    """Python's streams refuse to be entered twice, so the handler must not use them."""

    class Busy:
        def write(self, text):
            raise RuntimeError("reentrant call")

        flush = isatty = write

    stop = callbacks.Stop()
    monkeypatch.setattr(sys, "stdout", Busy())
    stop.handle(signal.SIGTERM, None)
    stop.close()
    assert stop.signal == signal.SIGTERM and "stopping after this step" in capfd.readouterr().out


@pytest.mark.parametrize(("columns", "last", "room"), [(80, 25_000, 2), (60, 187_500, 1), (45, 25_000, 0), (200, 9, 6)])
def test_the_bar_shows_the_losses_that_have_room(monkeypatch, columns, last, room):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys, "stdout", Screen())
    step, names = (
        callbacks.Step(0, last),
        ["d_loss", "g_loss", "source_real", "source_fake", "label_real", "label_fake"],
    )
    terminal = callbacks.Bar(step)
    terminal.set_model(types.SimpleNamespace(metrics=[types.SimpleNamespace(name=name) for name in names]))
    terminal.on_train_begin()
    for step.now in (1, 2):
        terminal.on_train_batch_end(0, dict.fromkeys(names, 0.1234))
    terminal.bar.refresh()
    line = sys.stdout.getvalue().split("\r")[-1].rstrip()
    assert len(line) <= columns and re.search(r" left(, \w+=0\.123)*\]$", line)
    assert [name for name in names if f" {name}=0.123" in line] == names[:room]
    terminal.close()


def memory():
    """Returns the resident memory in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


on_linux = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="tells the memory in use on Linux alone")


@on_linux
def test_the_log_and_checkpoints_take_no_memory(tmp_path):
    """TensorFlow would keep 6 kB of each line of Python numbers, and 70 kB of each optimizer that Keras makes."""
    model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(), "mse", metrics=[keras.metrics.MeanSquaredError(name) for name in "abcdefg"])
    model.fit(np.zeros([1, 1]), np.zeros([1, 1]), verbose=0)
    step = callbacks.Step(0, 4000)
    log = callbacks.Log(step, tmp_path)
    saving = callbacks.Checkpoint(step, Experiment(ROOT, "row", {}, 0, 4000, tmp_path), State(0, 0.0, {}, 0))
    names, used = [metric.name for metric in model.metrics], []
    board = callbacks.TensorBoard(step, tmp_path)
    for part in (step, log, board, saving):
        part.set_model(model)
        part.on_train_begin()
    for batch in range(4000):
        step.on_train_batch_end(batch)
        for part in (log, board):
            part.on_train_batch_end(batch, dict.fromkeys(names, batch / 7))
        if step.now % 20 == 0:
            saving.save(networks=False)
        if step.now % 1000 == 0:
            used.append(memory())
    log.close()
    assert used[-1] - used[0] < 12  # MB; 32 more with both leaks, 10 more with either
    assert len(checkpoint.read_log(tmp_path)) == 4000


def test_weights_that_are_no_numbers_are_not_saved(monkeypatch, tmp_path):
    """The losses are still finite, but the update after them is not."""
    original = dcgan.train.DCGAN.train_step

    def train_step(self, images):
        logs = original(self, images)
        self.generator.trainable_variables[0].assign_add(0 * self.generator.trainable_variables[0] / 0.0)
        return logs

    monkeypatch.setattr(dcgan.train.DCGAN, "train_step", train_step)
    code = train_here(monkeypatch, tmp_path, dcgan.train, STEPS="1")
    assert "is nan" in code and "at step 1" in code
    assert not list(tmp_path.rglob("*.weights.h5"))


def test_a_checkpoint_between_two_dev_losses_has_no_nan(tmp_path):
    model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(), "mse")
    step = callbacks.Step(0, 25_000)
    saving = callbacks.Checkpoint(step, Experiment(ROOT, "row", {}, 0, 25_000, tmp_path), State(0, 0.0, {}, 0))
    saving.set_model(model)
    saving.on_train_begin()
    (tmp_path / "log.csv").touch()
    step.now = 7
    saving.save(networks=False)
    step.now = 8
    model.weights[0].assign([[np.nan]])
    with pytest.raises(FloatingPointError, match="kernel is nan at step 8"):
        saving.save(networks=False)
    assert checkpoint.read_state(tmp_path).step == 7


def test_a_loss_that_is_no_number_ends_the_run(monkeypatch, tmp_path):
    """The error names the step and the checkpoint that is left, here none."""
    runs = {"huge": with_model(vae.train.RUNS["mnist_z3"], learning_rate=1e30)}
    code = train_here(monkeypatch, tmp_path, vae.train, runs)
    assert re.match(r"error: .*is (nan|inf).* at step \d+: try another SEED \(there is no checkpoint yet\)", code)
