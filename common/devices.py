"""Where a step runs, on one device, several of this machine or several machines, and how it runs fastest there."""

import contextlib
import math
import os
import signal
import sys
import zlib
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from common import silenced
from common.files import UserError, say
from common.kernels import batch_norms, fuse

# What TensorFlow raises in a worker that has lost another.
LOST = (
    tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError,
    tf.errors.InternalError, tf.errors.FailedPreconditionError,
)  # fmt: skip
GPUS = tf.config.list_physical_devices("GPU")


def available_cores() -> list[int]:
    """Returns the CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return sorted(os.sched_getaffinity(0))
    return [*range(os.cpu_count())]


def name() -> str:
    """Describes the device that trains: the GPUs, or the CPU and its number of cores."""
    if GPUS:
        details = [tf.config.experimental.get_device_details(gpu) for gpu in GPUS]
        return ", ".join(detail.get("device_name", gpu.name) for detail, gpu in zip(details, GPUS))
    cores = len(available_cores())
    return f"CPU, {cores} cores" if cores > 1 else "CPU, 1 core"


def strategy() -> tf.distribute.Strategy:
    """Returns the strategy for TF_CONFIG's workers, or this machine's GPUs, or its only device.

    Call it before TensorFlow computes anything.

    Raises:
        UserError: TF_CONFIG does not describe a cluster.
    """
    if not os.environ.get("TF_CONFIG"):
        return tf.distribute.MirroredStrategy() if len(GPUS) > 1 else tf.distribute.get_strategy()
    say("waiting for all workers in TF_CONFIG")
    try:
        with interruptible(), silenced():
            return tf.distribute.MultiWorkerMirroredStrategy()
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, tf.errors.OpError) as error:
        raise UserError(f"TF_CONFIG can't be used ({str(error).splitlines()[0]}): correct or unset it") from error


@contextlib.contextmanager
def lost_workers() -> Iterator[None]:
    """Ends the process with one line and exit code 1 if another worker in TF_CONFIG is lost."""
    try:
        yield
    except LOST as error:
        if not os.environ.get("TF_CONFIG"):
            raise
        lost = error.message.splitlines()[0]
        print(f"error: this worker has lost another ({lost}): restart all workers", file=sys.stderr)
        sys.exit(1)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Lets Ctrl-C end the process at once: Python does not see it while TensorFlow waits for other workers."""
    handler = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def agree(strategy: tf.distribute.Strategy, *facts: object) -> bool:
    """Returns whether all workers call this with the same `facts`, compared by their `repr`."""
    mine = float(zlib.crc32(repr(facts).encode()))
    with interruptible():
        return float(strategy.reduce("MEAN", tf.constant(mine, tf.float64), axis=None)) == mine


def worker(strategy: tf.distribute.Strategy) -> tuple[int, int]:
    """Returns the number of this worker, 0 for the chief, the only one that writes, and how many there are.

    Raises:
        UserError: TF_CONFIG's task is not one of them.
    """
    resolver = strategy.cluster_resolver
    tasks = resolver.cluster_spec().as_dict() if resolver else {}
    tasks = [(job, i) for job in ("chief", "worker") for i in range(len(tasks.get(job, [])))]
    if not tasks:
        return 0, 1
    if (task := (resolver.task_type, resolver.task_id)) not in tasks:
        raise UserError(f"TF_CONFIG can't be used (no worker is {task[0]} {task[1]}): set its task to a worker")
    return tasks.index(task), len(tasks)


def shares(batches: tf.data.Dataset, strategy: tf.distribute.Strategy):
    """Returns the batches for `fit`, split among the replicas: each of n gets every n-th image.

    So if several batches are drawn as one, each replica gets its share of the first, of the second and so on.
    """
    count = strategy.num_replicas_in_sync
    if count == 1:
        return batches

    def of_worker(context):
        mine = count // context.num_input_pipelines
        first = mine * context.input_pipeline_id

        def split(*batch):
            def share(replica):
                parts = tuple(part[replica::count] for part in batch)
                return parts if len(parts) > 1 else parts[0]

            return tf.data.Dataset.range(first, first + mine).map(share)

        return batches.flat_map(split).prefetch(2 * mine)

    # An iterator that prefetches to the devices was seen to block for up to a minute when it was deleted.
    options = tf.distribute.InputOptions(experimental_fetch_to_device=False)
    return strategy.distribute_datasets_from_function(of_worker, options)


def join(model: keras.Model, strategy: tf.distribute.Strategy, asked: tf.Variable) -> None:
    """Makes the replicas' steps, each on its share, equivalent to one step on the whole batch, up to rounding.

    Args:
        model: built in the scope of `strategy`.
        asked: a number of this worker; with several workers, its mean over all is added to the logs as "asked".
    """
    count = strategy.num_replicas_in_sync
    if count == 1:
        return
    for part in vars(model).values():
        if isinstance(part, keras.Optimizer):
            part.loss_scale_factor = count  # the gradients are summed over the replicas, but the losses are means
    for layer in batch_norms(model):
        layer.synchronized = True
    # Keras would average the shares of a batch of images, to build a model that is already built.
    model._maybe_symbolic_build = lambda **_: None
    if worker(strategy)[1] > 1:
        step = model.train_step

        def vectors(batch) -> dict:  # Keras averages over the workers along axis 0
            return {name: value[None] for name, value in {**step(batch), "asked": asked.value()}.items()}

        model.train_step = vectors


def evaluation(model: keras.Model) -> Callable[[np.ndarray], dict[str, float]]:
    """Returns a function from images (n, H, W, C) to the means of the model's metrics over them, using `test_step`.

    Each replica sees all images, so the means are those of a single device. (Keras' `evaluate` makes a new iterator
    each time, and with several devices waits up to a minute for an old one to end.)
    """
    step = tf.function(
        lambda batch: model.distribute_strategy.run(model.test_step, (batch,)), jit_compile=model.jit_compile
    )

    def evaluate(images: np.ndarray) -> dict[str, float]:
        model.reset_metrics()
        for start in range(0, len(images), 100):
            step(tf.constant(images[start : start + 100]))
        return {metric.name: float(metric.result()) for metric in model.metrics}

    return evaluate


def tune(
    model: keras.Model, image_shape: tuple[int, int, int], round_steps: int, strategy: tf.distribute.Strategy
) -> None:
    """Sets how the model's steps are executed: in the way measured to be fastest on the device.

    On a CPU, XLA's convolutions are no faster than oneDNN's (on two AVX-512 cores, as fast for the small MNIST networks
    and slower for the wide ones), and XLA compiles for 3 to 30 s and takes about 300 MB. What else it does, `fuse` does
    there, too. Ten steps per execution save Python's overhead in a small step, if `round_steps`, a divisor of all steps
    at which an execution must end, is a multiple of ten. On several devices, XLA can't compile the steps, and
    TensorFlow can't combine them.
    """
    small = bool(GPUS) or math.prod(image_shape) <= 32 * 32
    alone = strategy.num_replicas_in_sync == 1
    model.jit_compile = alone and bool(GPUS)
    if alone and not GPUS:
        fuse(model)
    model.steps_per_execution = 10 if alone and small and round_steps % 10 == 0 else 1
