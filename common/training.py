"""Trains an experiment's model; a train.py's main part only calls `train`."""

import contextlib
import functools
import math
import sys
from collections.abc import Callable
from pathlib import Path

import keras
import tensorflow as tf

from common import callbacks, checkpoint, datasets, devices, experiment, plots, silenced
from common.checkpoint import State
from common.datasets import Dataset
from common.experiment import Experiment
from common.files import UserError, one_line_errors, say

# As the scripts require, whatever the user's keras.json says.
keras.config.set_image_data_format("channels_last")
keras.config.set_floatx("float32")
tf.get_logger().setLevel("ERROR")
# This optimization merges a metric's sum of sums into one AddN, which adds in the order in which memory becomes free:
# the log's last bits would differ from run to run.
tf.config.optimizer.set_experimental_options({"arithmetic_optimization": False})
# Keras tries to cache which attributes of an optimizer it does not save, but looks them up under another name. So each
# checkpoint created a new optimizer to inspect, and TensorFlow keeps its variables' names: 140 kB for two.
with contextlib.suppress(ImportError, AttributeError):
    from keras.src.saving import saving_lib

    saving_lib.get_attr_skipset = functools.cache(saving_lib.get_attr_skipset)


def train(runs: dict, build: Callable, generate: Callable, curves: dict) -> None:
    """Trains or resumes the row that the command line names, and leaves the results in its folder.

    Args:
        runs: the rows by name; the "model" of each is passed to `build`.
        build: `build(image_shape, seed=..., **row["model"])` returns a compiled model; its `networks()` are saved by
            name.
        generate: `generate(network, count, seed)` draws uint8 images (count, H, W, C) from the first of `networks()`.
        curves: the panels of curves.png: columns of log.csv by axis label.
    """
    with one_line_errors(), devices.lost_workers(), contextlib.ExitStack() as held:
        chosen = experiment.select(runs, build)
        strategy = devices.strategy()
        worker, _ = devices.worker(strategy)
        if chosen.row["batch_size"] % strategy.num_replicas_in_sync:
            raise UserError(
                f"{strategy.num_replicas_in_sync} devices can't share a batch of {chosen.row['batch_size']} equally: "
                "choose fewer with CUDA_VISIBLE_DEVICES, or change TF_CONFIG"
            )
        images = datasets.load(chosen.row["dataset"])
        if not worker:  # of several workers, only the chief writes
            held.enter_context(experiment.hold_folder(chosen))
        state = checkpoint.begin(chosen, images.identity)
        describe(chosen, images)
        if strategy.num_replicas_in_sync > 1:
            share(chosen, state, strategy)
        with silenced(), strategy.scope():
            model = build(images.train.images.shape[1:], seed=chosen.seed, **chosen.row["model"])
            if state.step:
                checkpoint.load_checkpoint(model, state, chosen.folder)
        signal = None
        if state.step < chosen.steps:
            if state.step:
                say(f"  resuming from step {state.step:,}")
            signal = fit(chosen, state, model, images, generate)
        else:
            say(f"  trained already, {chosen.steps:,} steps; to train again, delete {chosen.folder}")
            if not state.best and not worker:
                checkpoint.save_networks(model, chosen.folder, state.step)  # as this version writes them
        if not worker:
            draw_training(chosen, curves)
        if signal:
            say(f"stopped before the end; to resume: {chosen.command('train.py')}")
            sys.exit(128 + signal)
        say(f"done: samples.png, training.gif, curves.png and the trained networks are in {chosen.folder}")
        say(f"next: {chosen.command('test.py')}")


def draw_training(chosen: Experiment, curves: dict) -> list[dict]:
    """Draws curves.png and, from the sheets in samples/, training.gif; returns the log."""
    log, frames = checkpoint.read_log(chosen.folder), checkpoint.by_step(chosen.folder / "samples")
    if log:
        plots.curves(log, curves, chosen.folder / "curves.png", chosen.title)
    else:
        say(f"*** {chosen.folder / 'log.csv'} is gone: no curves are drawn")
    if frames:
        plots.gif([*frames.values()], chosen.folder / "training.gif")
    else:
        say(f"*** {chosen.folder / 'samples'} is empty: training.gif is not drawn")
    return log


def describe(chosen: Experiment, images: Dataset) -> None:
    """Prints what runs, on which data and device, and where the results go."""
    row = chosen.row
    counts = ", ".join(f"{len(part.images):,} {name}" for name, part in images.splits().items())
    shape = "x".join(map(str, images.train.images.shape[1:]))
    say(f"{chosen.title}: {chosen.steps:,} steps, batch size {experiment.batch(row)}, seed {chosen.seed}")
    say(f"  data    {images.source} from {images.origin}: {counts} images of {shape}")
    say(f"  device  {devices.name()}")
    say(f"  folder  {chosen.folder}")
    if not devices.GPUS and Path("/dev/nvidia0").exists():
        say("  There is an NVIDIA GPU, but TensorFlow can't use it: pip install -e '.[gpu]'")


def share(chosen: Experiment, state: State, strategy: tf.distribute.Strategy) -> None:
    """Prints how many devices share a batch.

    Raises:
        UserError: Another worker has another run, dataset or state.
    """
    worker, workers = devices.worker(strategy)
    which = f" of {workers} workers; this is worker {worker}" if workers > 1 else ""
    say(f"  sharing each batch among {strategy.num_replicas_in_sync} devices{which}")
    if workers > 1 and not devices.agree(strategy, chosen.title, chosen.seed, chosen.steps, state):
        raise UserError(
            f"another worker has another run, SEED, STEPS or dataset than this one, or finds another state than "
            f"step {state.step:,} in its RUNS_DIR: give all workers the same settings and one shared RUNS_DIR"
        )


def batches(chosen: Experiment, images: Dataset, start: int) -> tf.data.Dataset:
    """Returns the experiment's batches from step `start` on."""
    row = chosen.row
    labels = images.train.targets(row["labels"], images.names) if "labels" in row else None
    size = row["batch_size"] * row["model"].get("batches_per_step", 1)
    return datasets.batches(images.train.images, size, chosen.seed, start, chosen.steps, labels)


def fit(chosen: Experiment, state: State, model: keras.Model, images: Dataset, generate: Callable) -> int | None:
    """Trains `model` from `state.step` to the end, or until a signal, whose number it then returns."""
    strategy = model.distribute_strategy
    step, stop = callbacks.Step(state.step, chosen.steps), callbacks.Stop()
    progress = callbacks.Bar(step) if sys.stdout.isatty() else callbacks.Lines(step)
    parts = [step, stop, callbacks.DevLoss(step, images.dev.images), callbacks.Finite(step), progress]
    if not devices.worker(strategy)[0]:
        checkpoint.cut_back(chosen.folder, state.step)
        parts += [callbacks.Log(step, chosen.folder), callbacks.TensorBoard(step, chosen.folder)]
        parts += [callbacks.Samples(step, chosen, generate), callbacks.Checkpoint(step, chosen, state)]
    devices.join(model, strategy, stop.asked)
    # (After training on several devices, the step may not be a multiple of ten.)
    devices.tune(model, images.train.images.shape[1:], math.gcd(step.interval, state.step), strategy)
    try:
        model.fit(devices.shares(batches(chosen, images, state.step), strategy), callbacks=parts, verbose=0)
    except FloatingPointError as error:
        kept = checkpoint.read_state(chosen.folder)
        left = "there is no checkpoint yet"
        if kept:
            left = f"the checkpoint of step {kept.step:,} is kept in {chosen.folder}"
        raise SystemExit(f"error: {error}: try another SEED ({left})") from error
    finally:
        for part in parts:
            getattr(part, "close", lambda: None)()
    return None if step.ended else stop.signal
