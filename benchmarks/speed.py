"""Compares the scripts' speed with plain PyTorch's on this machine: `python benchmarks/speed.py [model/row ...]`.

A row runs as in its train.py, but without samples and checkpoints between the steps. It is compared with the same
networks, losses and optimizers in PyTorch (benchmarks/twins.py), eager and compiled, with all images in memory and
batches drawn the fastest way PyTorch offers. First, both sides take three steps from the same weights, on the same
images and noise; their losses must agree. Then they take turns, each in a process of its own, which sleeps while
another works; the medians are reported. Writes speed.json to RUNS_DIR.
"""

import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from importlib import import_module
from pathlib import Path

ROWS = (
    "vae/mnist_z100", "dcgan/mnist", "acgan/mnist_padded", "infogan/mnist_padded", "wgan/mnist", "dcgan/celeba_z100",
    "dcgan/celeba_z128", "vae/cifar10_beta2", "wgan/cifar10_div_small",
)  # fmt: skip
# Keras orders these layers, which share an input, differently.
HEADS = "source", "label", "q_hidden", "q_norm", "q_categorical", "q_continuous", "mean", "log_variance"
ROOT = Path(__file__).resolve().parent.parent
ROUNDS, SECONDS = 7, 2.0


def memory():
    """Returns this process's peak memory so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Keras:
    """A row as train.py runs it."""

    def __init__(self, row):
        from common import datasets, devices, experiment, training

        self.script, name = row.split("/")
        self.module, self.batches_of = import_module(f"{self.script}.train"), training.batches
        script = ROOT / self.script
        self.chosen = experiment.named(script, self.module.RUNS, name)._replace(seed=0, steps=0)
        self.settings = self.chosen.row["model"]
        self.images = datasets.load(self.chosen.row["dataset"])
        shape = self.images.train.images.shape[1:]
        self.model = self.module.build(shape, seed=0, **self.settings)
        devices.tune(self.model, shape, 500, self.model.distribute_strategy)

    def batches(self, count):
        """Returns the batches of the next `count` steps."""
        start = self.chosen.steps
        self.chosen = self.chosen._replace(steps=start + count)
        return self.batches_of(self.chosen, self.images, start)

    def example(self, count, path):
        """Returns the arguments of `Torch.load`, and the images, labels, random draws and losses of `count` steps.

        Saves the training images and labels to `path`.
        """
        import numpy as np
        import tensorflow as tf

        images, labels = self.images.train
        np.savez(path, images=images, labels=labels)
        networks = self.model.networks()
        if self.script == "vae":
            networks["decoder"] = self.model.decoder  # without the last activation
        weights = {}
        for name, network in networks.items():
            layers = sorted(network.layers, key=lambda layer: HEADS.index(layer.name) if layer.name in HEADS else -1)
            weights[name] = [w.numpy() for layer in layers for w in layer.trainable_variables]
        steps = []
        for batch in self.batches(count):
            images, labels = batch if "labels" in self.chosen.row else (batch, tf.zeros([len(batch)], tf.uint8))
            draws = [draw.numpy() for draw in self.draws(len(images))]
            self.model.reset_metrics()
            losses = {name: float(value) for name, value in self.model.train_step(batch).items()}
            steps.append((images.numpy(), labels.numpy(), draws, losses))
        self.model.reset_metrics()
        return (self.script, self.chosen.row, weights, path), steps

    def draws(self, count):
        """Returns the random draws of the next step, in the order in which the PyTorch side takes them."""
        import tensorflow as tf

        fold, model, module = tf.random.experimental.stateless_fold_in, self.model, self.module
        if self.script == "vae":
            seed = fold([model.seed, model.optimizer.iterations.value], 0)
            return [tf.random.stateless_normal([count, self.settings["latent_dim"]], seed)]
        if self.script == "dcgan":
            updates = self.settings["g_updates"]
            seeds = tf.unstack(tf.random.experimental.stateless_split(model.step_seed(), 1 + updates))
            # A single update of G reuses D's fakes.
            return [module.sample_noise(model.generator, count, seed) for seed in seeds[: 1 if updates == 1 else None]]
        if self.script == "acgan":
            return [module.sample_noise(model.generator, count, model.step_seed())]
        if self.script == "infogan":
            return module.sample_inputs(model.generator, count, model.step_seed())
        seed, updates = fold([model.seed, model.g_optimizer.iterations.value], 0), model.batches_per_step
        return [x for i in (*range(updates), -1) for x in model.sample(count // updates, fold(seed, i))]

    def drawing(self, count):
        """Returns the seconds it takes just to draw the batches of `count` steps, in a graph as in training."""
        import tensorflow as tf

        @tf.function
        def draw(batches):
            for batch in batches:
                tf.nest.map_structure(tf.identity, batch)

        draw(self.batches(10))
        batches = self.batches(count)
        begun = time.perf_counter()
        draw(batches)
        return time.perf_counter() - begun

    def seconds(self, count):
        """Returns the seconds that `count` steps take."""
        import keras

        batches = self.batches(count)
        times = []

        class Clock(keras.callbacks.Callback):
            def on_train_batch_begin(self, batch, logs=None):
                times.append(time.perf_counter())

            def on_train_batch_end(self, batch, logs=None):
                times.append(time.perf_counter())

        self.model.fit(batches, callbacks=[Clock()], verbose=0)
        return times[-1] - times[0]

    def peak(self):
        """Returns the GFLOP per second of a matrix product."""
        import tensorflow as tf

        a = tf.random.normal([2048, 2048])
        product = tf.function(lambda a: tf.reduce_sum(a @ a))
        return 2 * 2048**3 / min(timeit.repeat(lambda: float(product(a)), number=1, repeat=11)) / 1e9


def worker(pipe, side, row):
    if side == "keras":
        from common import training  # noqa: F401  TensorFlow and Keras

        imported = memory()
        made = Keras(row)
    else:
        sys.path.insert(0, str(Path(__file__).parent))
        from twins import Torch

        imported = memory()
        made = Torch(side)
    while call := pipe.recv():
        name, *arguments = call
        pipe.send(memory() - imported if name == "memory" else getattr(made, name)(*arguments))


class Side:
    """Calls the methods of a `Keras` or `Torch` object in another process."""

    def __init__(self, side, row):
        self.pipe, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self.process = context.Process(target=worker, args=(theirs, side, row), daemon=True)
        self.process.start()
        theirs.close()

    def __call__(self, *call):
        self.pipe.send(call)
        return self.pipe.recv()

    def close(self):
        self.pipe.send(None)
        self.process.join()


def agreeing(row, path):
    """Returns the three sides and what they were loaded with, having checked that their losses of three steps agree."""
    sides = {name: Side(name, row) for name in ("keras", "eager", "compile")}
    loaded, steps = sides["keras"]("example", 3, path)
    for name in ("eager", "compile"):
        sides[name]("load", *loaded)
        for number, (losses, (*_, expected)) in enumerate(zip(sides[name]("steps", [s[:3] for s in steps]), steps)):
            for key, value in losses.items():
                if not abs(value - expected[key]) <= 1e-3 * 10**number * max(1, abs(expected[key])):
                    raise SystemExit(f"{row}, step {number + 1}: {key} is {value} in PyTorch, {expected[key]} in Keras")
    return sides, loaded


def compare(row, path):
    """Returns the entry of one row in speed.json."""
    sides, loaded = agreeing(row, path)
    counts, times = {}, {name: [] for name in sides}
    for name, side in sides.items():
        side("seconds", 10)
        counts[name] = 10 * max(1, round(SECONDS / side("seconds", 10)))
    for _ in range(ROUNDS):
        for name, side in sides.items():
            times[name].append(side("seconds", counts[name]) / counts[name])
    drawing = sides["keras"]("drawing", 1000) / 1000
    medians = {name: statistics.median(values) for name, values in times.items()}
    gflop = sides["eager"]("gflop")
    peak = max(sides["keras"]("peak"), sides["eager"]("peak"))
    result = {
        "ratio": min(medians["eager"], medians["compile"]) / medians["keras"],
        "share_of_peak": gflop / medians["keras"] / peak,
        "seconds a step": medians,
        "all rounds": times,
        "steps a round": counts,
        "GFLOP a step": gflop,
        "peak (GFLOP/s)": peak,
        # An upper bound: another thread draws the next batches while a step computes.
        "waiting for data (share)": drawing / medians["keras"],
    }
    for side in sides.values():
        side.close()
    return result | {"memory above the import (MB)": {name: memory_of(name, row, loaded) for name in sides}}


def memory_of(side, row, loaded):
    """Returns the peak memory of a process that only takes steps, in MB above what importing its framework takes."""
    made = Side(side, row)
    if side != "keras":
        made("load", *loaded)
    made("seconds", 50)
    memory = made("memory")
    made.close()
    return memory


def first_step(row):
    """Returns the seconds from the command to its first line of steps, after ten steps or a minute of training."""
    script, name = row.split("/")
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        command = [sys.executable, ROOT / script / "train.py", name]
        environment = os.environ | {"RUNS_DIR": folder, "STEPS": "100"}
        with subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE) as process:
            for line in process.stdout:
                if line.startswith("  step "):
                    break
            seconds = time.perf_counter() - begun
            process.kill()
    return seconds


if __name__ == "__main__":
    rows = sys.argv[1:] or ROWS
    if unknown := [row for row in rows if row not in ROWS]:
        print(f"error: no PyTorch twin of {', '.join(unknown)}: choose from {', '.join(ROWS)}", file=sys.stderr)
        sys.exit(2)
    results, path = [], Path(os.environ.get("RUNS_DIR") or ROOT / "runs", "speed.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    for row in rows:
        with tempfile.TemporaryDirectory() as folder:
            result = {"row": row, "seconds to the first line of steps": first_step(row)}
            result |= compare(row, f"{folder}/images.npz")
        steps = {name: f"{1 / value:.2f}" for name, value in result["seconds a step"].items()}
        print(row, f"{result['ratio']:.2f}", f"{result['share_of_peak']:.0%}", steps,
              f"data {result['waiting for data (share)']:.1%}", result["memory above the import (MB)"],
              f"{result['seconds to the first line of steps']:.1f} s", flush=True)  # fmt: skip
        results.append(result)
        path.write_text(json.dumps(results, indent=1) + "\n")
