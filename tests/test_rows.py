"""The rows on CelebA and CIFAR-10, each with its own networks, on a few drawn faces."""

import functools
import json
import signal
import sys

import numpy as np
import pytest
import tensorflow as tf
from test_run import MODULES, arrays

import acgan.test
import dcgan.test
import infogan.test
import vae.test
import wgan.test
from common import data, fid, run

TESTS = {"vae": vae.test, "dcgan": dcgan.test, "acgan": acgan.test, "infogan": infogan.test, "wgan": wgan.test}
# (Other rows differ from these in a number or a label: the tests of their models compare them.)
LIKE_OTHERS = "celeba_male", "cifar10_beta4", "cifar10_beta6", "cifar10_gp"
ROWS = [
    (script, name)
    for script, module in MODULES.items()
    for name, row in module.RUNS.items()
    if row["dataset"] != "mnist" and name not in LIKE_OTHERS
]
# The widest. Other rows of their scripts differ from them in layers alone, but for Adamax, which `small` lends to one.
WIDE = ("vae", "celeba_z128"), ("dcgan", "celeba_z128")
NAMES = list(json.loads((fid.WEIGHTS / "celeba.json").read_text())["attributes"])


@pytest.fixture(scope="module")
def faces():
    """86 drawings of 64x64: a face on a ground, each in a colour of its own, that smiles or does not."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64]
    labels = rng.integers(0, 2, [86, 40]).astype(np.uint8)
    images = np.empty([86, 64, 64, 3], np.uint8)
    for image, smiles in zip(images, labels[:, NAMES.index("Smiling")]):
        image[:] = rng.integers(0, 256, 3)
        image[(y - 32) ** 2 + (x - 32) ** 2 < 24**2] = rng.integers(0, 256, 3)
        image[40 : 48 if smiles else 42, 22:42] = 255
    parts = (data.Split(images[part], labels[part]) for part in (slice(16), slice(16, 50), slice(50, 86)))
    return data.Dataset("drawn faces", "this test", NAMES, *parts)


@pytest.fixture
def images(row, faces):
    """What the row takes: the faces, or them at half the size with a class each."""
    script, name = row
    if MODULES[script].RUNS[name]["dataset"] == "celeba":
        return faces
    parts = [data.Split(part.images[:, ::2, ::2], np.arange(len(part.images)) % 10) for part in faces[3:]]
    return data.Dataset("drawn faces", "this test", [*"abcdefghij"], *parts)


@pytest.mark.parametrize("row", ROWS, ids="-".join)
def test_each_row_steps(row, images):
    script, name = row
    module = MODULES[script]
    hyper = {key: value for key, value in module.RUNS[name].items() if key not in run.OURS}
    if script == "wgan":
        hyper["batches_per_step"] = 1  # XLA compiles five for long
    labels = images.train.targets("Smiling", NAMES) if script == "acgan" else None
    model = module.build(images.train.images.shape[1:], **hyper)
    model.jit_compile = False
    before = [weights.copy() for weights in model.get_weights()]
    batches = data.batches(images.train.images, 4, 0, 0, 1, labels)
    model.fit(batches, verbose=0)
    changed = [not np.array_equal(a, b) for a, b in zip(before, model.get_weights())]
    assert np.mean(changed) > 0.8, changed
    assert np.isfinite([float(value) for value in model.get_metrics_result().values()]).all()
    # XLA takes every operation. (It compiles for half a minute: test_run.py does that, of the first rows.)
    step = tf.function(model.train_step, jit_compile=True)
    assert "HloModule" in step.experimental_get_compiler_ir(next(iter(batches)))(stage="hlo")


def small(script, name):
    """The row in batches of 4."""
    row = MODULES[script].RUNS[name] | {"batch_size": 4} | ({"optimizer": "Adamax"} if name == "celeba_z512" else {})
    return {name: row | ({"batches_per_step": 2} if script == "wgan" else {})}


def train(monkeypatch, folder, script, name, stop_at=None):
    """`run.train` of the row, two steps in batches of 4; its exit code. At the frame of step `stop_at`: SIGTERM."""
    module = MODULES[script]
    steps = []

    def generate(network, count, seed):
        steps.append(len(steps))
        if stop_at is not None and steps[-1] == stop_at:
            signal.raise_signal(signal.SIGTERM)
        return module.generate(network, 64, seed)

    monkeypatch.setenv("RUNS_DIR", str(folder))
    monkeypatch.setenv("STEPS", "2")
    monkeypatch.setattr(sys, "argv", ["train.py", name])
    try:
        run.train(small(script, name), module.build, generate, module.CURVES)
    except SystemExit as stop:
        return stop.code
    return 0


@pytest.mark.parametrize("row", [row for row in ROWS if row not in WIDE], ids="-".join)
def test_each_row_stops_resumes_and_is_measured(row, images, monkeypatch, tmp_path, capsys):
    script, name = row
    monkeypatch.setattr(data, "load", lambda dataset: images)
    folder = tmp_path / "stopped" / script / f"{name}-steps2"
    assert train(monkeypatch, tmp_path / "stopped", script, name, stop_at=1) == 128 + signal.SIGTERM
    assert run.read_state(folder).step == 1
    assert train(monkeypatch, tmp_path / "stopped", script, name) == 0
    assert "going on from step 1" in capsys.readouterr().out
    if row != ("wgan", "celeba_gp"):  # whose script has a shorter one
        assert train(monkeypatch, tmp_path, script, name) == 0
        whole = tmp_path / script / f"{name}-steps2"
        ours, theirs = (arrays(path / run.CHECKPOINT) for path in (folder, whole))
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            np.testing.assert_array_equal(ours[key], value, err_msg=key)
        assert (folder / "log.csv").read_text() == (whole / "log.csv").read_text()

    monkeypatch.setenv("RUNS_DIR", str(tmp_path / "stopped"))
    module = TESTS[script]
    networks = {
        "vae": ("decoder", "encoder"), "infogan": ("generator", "discriminator"), "wgan": ("generator", "critic"),
    }.get(script, ("generator",))  # fmt: skip
    # Ten images a value, not 200, for speed.
    few = functools.partial(infogan.test.attribute_numbers, count=10)
    monkeypatch.setattr(infogan.test, "attribute_numbers", few)
    capsys.readouterr()
    run.test(small(script, name), networks, module.generate, module.CURVES, module.report)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["dataset"] == "drawn faces" and metrics["steps"] == 2
    assert metrics["steps_planned"] == MODULES[script].RUNS[name]["steps"]
    own, pictures = metrics["own"], {path.stem for path in folder.glob("*.png")}
    if script == "vae":
        assert {"tsne", "decoded", "reconstructions", "interpolation", "compared"} <= pictures
        check_vae(folder, metrics, images)
    elif script in ("dcgan", "wgan"):
        assert {"samples", "interpolation", "curves"} <= pictures
    elif script == "infogan":
        generator = run.load_network(folder / "generator.keras")
        codes = {f"{kind}_{i + 1}" for kind, i in infogan.test.each_code(generator)}
        assert len(codes) == (5 if "5x10" in name else 3) and codes <= pictures
        for code in codes:
            code = code.replace("_", " ")
            most, changes = own[f"{code} changes most"], own[f"{code}: each attribute's change (share)"]
            assert list(changes) == fid.readable_attributes()
            assert most == "nothing" or changes[most] == own[f"{code}: change (share)"] == max(changes.values())
    else:
        assert "pairs" in pictures and 0 <= own["other attributes changed by the label (share)"] <= 1
        asked = MODULES[script].RUNS[name]["labels"]
        assert list(own["each changed by the label (share)"]) == [x for x in fid.readable_attributes() if x != asked]
        assert own["asked label read (share)"] == pytest.approx(0.5, abs=0.05)  # two steps teach nothing


def check_vae(folder, metrics, faces):
    """On faces the networks measured are those of the lowest dev MSE, and so is the test MSE, decoded from the mean."""
    if "dev_mse" in run.read_log(folder)[0]:
        log = [(float(row["dev_mse"]), int(row["step"])) for row in run.read_log(folder)]
        assert run.read_state(folder).best == list(min(log))
        assert metrics["step measured"] == min(log)[1]
        assert {"linear probe, Male (accuracy)", "chance, Male (accuracy)"} <= metrics["own"].keys()
    encoder, decoder = (run.load_network(folder / f"{name}.keras") for name in ("encoder", "decoder"))
    images = faces.test.images.astype(np.float32) / 255
    decoded = decoder(encoder(images)[0], training=False).numpy()
    assert metrics["own"]["test MSE"] == pytest.approx(((images - decoded) ** 2).mean(), rel=1e-4)


def test_the_lowest_dev_mse_is_kept_over_a_resume(faces, monkeypatch, tmp_path):
    """Steps that make it worse, before and after a stop, leave the kept networks alone."""
    monkeypatch.setattr(data, "load", lambda dataset: faces)
    original = vae.train.VAE.test_step
    by_step = tf.constant([0.5, 0.2, 0.4, 0.3, 0.1])

    def test_step(self, images):
        original(self, images)
        mse = self.means[1]
        mse.reset_state()
        mse.update_state(by_step[self.optimizer.iterations - 1])
        return self.get_metrics_result()

    monkeypatch.setattr(vae.train.VAE, "test_step", test_step)
    module, row = vae.train, vae.train.RUNS["celeba_z512"] | {"batch_size": 4}
    monkeypatch.setenv("RUNS_DIR", str(tmp_path))
    monkeypatch.setenv("STEPS", "5")
    monkeypatch.setattr(sys, "argv", ["train.py"])
    folder = tmp_path / "vae" / "row-steps5"
    kept, frames = {}, []

    def generate(network, count, seed):
        path = folder / "decoder.keras"
        kept[len(frames)] = (run.read_state(folder) or run.State(0, 0, {}, 0)).best, path.exists() and path.read_bytes()
        frames.append(0)
        if len(frames) == 4:  # step 3
            signal.raise_signal(signal.SIGTERM)
        return module.generate(network, count, seed)

    with pytest.raises(SystemExit):
        run.train({"row": row}, module.build, generate, module.CURVES)
    assert run.read_state(folder).step == 3
    run.train({"row": row}, module.build, generate, module.CURVES)
    # At the frame of a step, what the steps before it left.
    best = [value and [round(value[0], 3), value[1]] for value, _ in kept.values()]
    assert best == [None, None, [0.5, 1], [0.2, 2], [0.2, 2], [0.2, 2]]
    networks = [network for _, network in kept.values()]
    assert networks[3] == networks[4] == networks[5] != networks[2]
    state = run.read_state(folder)
    assert state.best[1] == 5 and (folder / "decoder.keras").read_bytes() != networks[5]
