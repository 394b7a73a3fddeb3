"""Several devices and several workers compute the same as one device."""

import functools
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from common import checkpoint, datasets, devices, kernels, training

ROOT = Path(__file__).resolve().parent.parent
MODELS = "vae", "dcgan", "acgan", "infogan", "wgan"
BATCH = 20  # split in five, for the critic's updates, and in two


def alike(draw):
    """Wraps `draw`: it draws the whole batch from one seed, and each replica takes its share."""

    def share(shape, seed, *arguments, **named):
        context = tf.distribute.get_replica_context()
        count, shape = context.num_replicas_in_sync, tf.convert_to_tensor(shape)
        whole = draw(tf.concat([shape[:1] * count, shape[1:]], 0), [7, 7], *arguments, **named)
        return whole[context.replica_id_in_sync_group :: count]

    return share


def split_cpu():
    """Makes devices.py find two devices; must come before TensorFlow computes anything."""
    one = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], [one, one])
    devices.strategy = lambda: tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def steps(model, strategy):
    """Takes three steps and evaluates; returns the logs, the weights of each replica, and the initial weights."""
    module = import_module(f"{model}.train")
    row = next(iter(module.RUNS.values()))
    hyper = row["model"]
    with strategy.scope():
        made = module.build((32, 32, 1), **hyper)
    devices.join(made, strategy, tf.Variable(0.0))
    draws = tf.random.stateless_normal, tf.random.stateless_uniform
    tf.random.stateless_normal, tf.random.stateless_uniform = map(alike, draws)
    images = np.random.default_rng(0).integers(0, 256, [3 * BATCH, 32, 32, 1], dtype=np.uint8)
    labels = np.arange(3 * BATCH, dtype=np.uint8) % 10 if "labels" in row else None
    found, first = [], [w.numpy() for w in made.weights]

    class Log(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            found.append({metric.name: float(logs[metric.name]) for metric in made.metrics})
            made.reset_metrics()

    made.jit_compile = False
    made.fit(devices.shares(datasets.batches(images, BATCH, 0, 0, 3, labels), strategy), callbacks=[Log()], verbose=0)
    tf.random.stateless_normal, tf.random.stateless_uniform = draws
    if type(made).test_step is not keras.Model.test_step:
        found.append(devices.evaluation(made)(images))
    weights = [[part.numpy() for part in strategy.experimental_local_results(w.value)] for w in made.weights]
    return found, [list(each) for each in zip(*weights)], first


def test_fused_operations_are_keras():
    """Batch norm, with its gradients and moving statistics, and Adam match Keras' own over five steps."""

    def made(amsgrad=False, **options):
        keras.utils.set_random_seed(0)
        norm = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, **options)
        model = keras.Sequential(
            [keras.Input([4, 4, 3]), keras.layers.Conv2D(8, 3, use_bias=False), norm, keras.layers.Dense(2)]
        )
        model.compile(keras.optimizers.Adam(1e-2, beta_1=0.5, amsgrad=amsgrad))
        model.optimizer.build(model.trainable_variables)
        return model

    def step(model, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = model(x, training=True)
            loss = tf.reduce_mean((y - 1.0) ** 2)
        gradients = tape.gradient(loss, [x, *model.trainable_variables])
        model.optimizer.apply(gradients[1:], model.trainable_variables)
        return y, gradients[0]

    def kinds(model):
        graph = tf.function(step).get_concrete_function(model, tf.TensorSpec([32, 4, 4, 3])).graph
        return [operation.type for operation in graph.get_operations()]

    plain, fused = made(), made()
    kernels.fuse(fused)
    assert kinds(fused).count("FusedBatchNormGradV3") == 1 and kinds(fused).count("ResourceApplyAdam") == 5
    assert len(kinds(plain)) > len(kinds(fused)) + 50
    for i in range(5):
        x = 2.0 + 3.0 * tf.random.stateless_normal([32, 4, 4, 3], [0, i])
        for ours, theirs in zip(step(fused, x), step(plain, x)):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(fused.variables + fused.optimizer.variables, plain.variables + plain.optimizer.variables):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5, err_msg=ours.path)
    x = tf.random.stateless_normal([32, 4, 4, 3], [1, 1])
    np.testing.assert_allclose(fused(x), plain(x), rtol=1e-3, atol=1e-5)  # in inference mode
    for option in ("scale", "center", "trainable"):  # left to Keras
        model = made(amsgrad=True, **{option: False})
        kernels.fuse(model)
        assert not {"FusedBatchNormV3", "ResourceApplyAdam"} & {*kinds(model)}


@pytest.mark.parametrize("model", MODELS)
def test_fused_steps_are_keras(model):
    """A step of each model's first row has the same losses and, except for signs of rounding errors, weights."""
    module = import_module(f"{model}.train")
    row = next(iter(module.RUNS.values()))
    images = np.random.default_rng(0).integers(0, 256, [BATCH, 32, 32, 1], dtype=np.uint8)
    batch = (images, np.arange(BATCH, dtype=np.uint8) % 10) if "labels" in row else images
    found = []
    for fused in (False, True):
        made = module.build((32, 32, 1), **row["model"])
        if fused:
            kernels.fuse(made)
        logs = tf.function(made.train_step)(tf.nest.map_structure(tf.constant, batch))
        found.append(({name: float(value) for name, value in logs.items()}, [w.numpy() for w in made.weights]))
    (theirs, plain), (ours, weights) = found
    assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-4)
    different = np.concatenate([(np.abs(a - b) > 1e-6).ravel() for a, b in zip(plain, weights)])
    assert different.mean() < 0.01


def cluster(count):
    """Returns a TF_CONFIG for each of `count` workers on this machine."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for s in sockets:
        s.close()
    return [
        json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": i}}) for i in range(count)
    ]


def start(folder, number, *command, **environment):
    """Starts a process that prints to <number>.log in the folder."""
    ours = {"RUNS_DIR": str(folder / "runs"), "no_proxy": "127.0.0.1", "CUDA_VISIBLE_DEVICES": "-1"}
    return subprocess.Popen(
        [sys.executable, *map(str, command)], env=os.environ | ours | environment, cwd=folder,
        stdout=open(folder / f"{number}.log", "w"), stderr=subprocess.STDOUT,
    )  # fmt: skip


def ended(folder, processes):
    """Waits for the processes; returns their exit codes and what they printed."""
    try:
        codes = [process.wait(300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return codes, [(folder / f"{number}.log").read_text() for number in range(len(processes))]


@functools.cache
def results(devices_each=1, workers=1, models=MODELS):
    """Returns, for each worker, what `steps` returns by model, with `devices_each` devices per worker."""
    environments = [{"TF_CONFIG": c} for c in cluster(workers)] if workers > 1 else [{}]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        calls = enumerate(environments)
        codes, said = ended(folder, [start(folder, i, __file__, i, devices_each, *models, **more) for i, more in calls])
        assert not any(codes), said
        return [pickle.loads((folder / f"{i}.pickle").read_bytes()) for i in range(workers)]


@pytest.mark.parametrize(
    ("model", "devices_each", "workers"), [*((model, 2, 1) for model in MODELS), ("vae", 1, 2), ("dcgan", 1, 2)]
)
def test_several_are_one(model, devices_each, workers):
    """All replicas have the same weights; these and the logs equal those of one device, up to rounding."""
    ((expected_logs, (expected,), first),) = (each[model] for each in results())
    found = [each[model] for each in results(devices_each, workers, ("vae", "dcgan") if workers > 1 else MODELS)]
    replicas = [weights for _, each, _ in found for weights in each]
    assert len(replicas) == devices_each * workers
    for other in replicas[1:]:
        for a, b in zip(replicas[0], other, strict=True):
            np.testing.assert_array_equal(a, b)
    for logs, *_ in found:
        assert len(logs) == len(expected_logs)
        for mine, theirs in zip(logs, expected_logs):
            assert mine == pytest.approx(theirs, rel=3e-3, abs=1e-3)
    # Rounding may move a ReLU's input across 0, and a GAN amplifies that with each step.
    change = np.concatenate([(b - a).ravel() for a, b in zip(first, expected)])
    error = np.concatenate([(b - a).ravel() for a, b in zip(replicas[0], expected)])
    tolerance = 1e-4 if model == "vae" else 0.006
    assert np.linalg.norm(error) < tolerance * np.linalg.norm(change), np.linalg.norm(error) / np.linalg.norm(change)


def until_steps(folder):
    """Waits until the first process prints steps."""
    begun = time.monotonic()
    while "  step " not in (folder / "0.log").read_text():
        assert time.monotonic() < begun + 120, (folder / "0.log").read_text()
        time.sleep(0.1)


def workers(folder, *command, **environment):
    """Starts two workers; returns them once they print steps."""
    processes = [start(folder, i, *command, TF_CONFIG=c, **environment) for i, c in enumerate(cluster(2))]
    until_steps(folder)
    return processes


def test_two_devices_train_stop_and_go_on(tmp_path):
    folder = tmp_path / "runs" / "vae" / "mnist_z100-steps205"
    processes = [start(tmp_path, 0, __file__, "train", STEPS="205")]
    until_steps(tmp_path)
    processes[0].send_signal(signal.SIGTERM)
    codes, _ = ended(tmp_path, processes)
    assert codes == [143]
    stopped = checkpoint.read_state(folder).step
    codes, said = ended(tmp_path, [start(tmp_path, 0, __file__, "train", STEPS="205")])
    assert codes == [0]
    assert f"resuming from step {stopped:,}" in said[0]
    assert "sharing each batch among 2 devices" in said[0]
    assert "Warning" not in said[0]
    assert checkpoint.read_state(folder).step == 205
    assert (folder / "training.gif").is_file()


def test_workers_must_agree(tmp_path):
    first, second = cluster(2)
    processes = [start(tmp_path, 0, ROOT / "vae" / "train.py", TF_CONFIG=first, SEED="1")]
    processes += [start(tmp_path, 1, ROOT / "vae" / "train.py", TF_CONFIG=second)]
    codes, said = ended(tmp_path, processes)
    assert codes == [2, 2]
    assert all("another worker has another run, SEED" in text.splitlines()[-1] for text in said)


def test_two_workers_train_stop_and_go_on(tmp_path):
    command, folder = [ROOT / "vae" / "train.py"], tmp_path / "runs" / "vae" / "mnist_z100-steps300"
    processes = workers(tmp_path, *command, STEPS="300")
    processes[1].send_signal(signal.SIGTERM)  # to only one
    codes, said = ended(tmp_path, processes)
    assert codes == [143, 143]
    assert all("stopped before the end" in text for text in said)
    stopped = checkpoint.read_state(folder).step
    assert 0 < stopped < 300

    for killed, left in ((1, 0), (0, 1)):
        processes = workers(tmp_path, *command, STEPS="300")
        processes[killed].kill()
        codes, said = ended(tmp_path, processes)
        assert codes[left] == 1
        assert said[left].splitlines()[-1].startswith("error: this worker has lost another")

    codes, said = ended(tmp_path, [start(tmp_path, 0, *command, STEPS="300")])  # on one device
    assert codes == [0]
    assert f"resuming from step {stopped:,}" in said[0]
    log = checkpoint.read_log(folder)
    assert int(log[-1]["step"]) == 300
    # One device joins ten steps, unless it would miss dev losses because it resumes between multiples of ten.
    assert [int(row["step"]) for row in log if row["dev_loss"]] == [*range(30, 301, 30)]


@pytest.mark.parametrize("model", MODELS)
def test_mixed_precision(model):
    module = import_module(f"{model}.train")
    row = next(iter(module.RUNS.values()))
    hyper = row["model"]
    images = np.random.default_rng(0).integers(0, 256, [BATCH, 32, 32, 1], dtype=np.uint8)
    batch = (images, np.arange(BATCH) % 10) if "labels" in row else images
    logs = []
    for policy in ("float32", "mixed_bfloat16"):
        keras.config.set_dtype_policy(policy)
        try:
            made = module.build((32, 32, 1), **hyper)
            for network in made.networks().values():
                assert {output.dtype for output in network.outputs} == {"float32"}
        finally:
            keras.config.set_dtype_policy("float32")
        logs.append({name: float(value) for name, value in made.train_step(batch).items()})
    assert logs[0] != logs[1]
    assert logs[1] == pytest.approx(logs[0], rel=0.03, abs=0.03)


if __name__ == "__main__":
    if sys.argv[1] == "train":
        split_cpu()
        module, sys.argv = import_module("vae.train"), sys.argv[:1]
        training.train(module.RUNS, module.build, module.generate, module.CURVES)
    else:
        number, cpus, *models = sys.argv[1:]
        if cpus == "2":
            split_cpu()
        # Adam turns a rounding error's sign into a full step, and hides a gradient that is twice too large.
        keras.optimizers.Adam = lambda *_, **__: keras.optimizers.SGD(1e-2)
        strategy = devices.strategy()
        found = {model: steps(model, strategy) for model in models}
        Path(f"{number}.pickle").write_bytes(pickle.dumps(found))
