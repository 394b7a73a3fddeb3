"""The rows of CelebA and CIFAR-10, each with its own networks, on a few drawn faces."""

import functools
import importlib
import json
import signal
import sys

import numpy as np
import pytest
import tensorflow as tf
from scripts import MODULES, arrays

from common import checkpoint, classifier, datasets, evaluation, training

TESTS = {script: importlib.import_module(f"{script}.test") for script in MODULES}
# These differ from other rows only in a number.
LIKE_OTHERS = {"cifar10_beta4", "cifar10_beta6", "celeba_z512_weak_kl", "cifar10_div", "cifar10_gp", "cifar10_gp_small"}
ROWS = [
    (script, name)
    for script, module in MODULES.items()
    for name, row in module.RUNS.items()
    if not row["dataset"].startswith("mnist") and name not in LIKE_OTHERS
]
# These are large and only take one step. Apart from layers, only their Adamax is new; `small` tests it in another row.
WIDE = ("vae", "celeba_z128"), ("dcgan", "celeba_z128")
# What test_training.py does not stop: Adamax with the best networks kept, labels, a third optimizer.
STOPPED = ("vae", "celeba_z512"), ("acgan", "celeba_male"), ("infogan", "celeba_cat5x10")
NAMES = list(json.loads((classifier.WEIGHTS / "celeba.json").read_text())["attributes"])


@pytest.fixture(scope="module")
def faces():
    """86 drawings of 64x64: a smiling or unsmiling face on a background, each in a random colour."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64]
    labels = rng.integers(0, 2, [86, 40]).astype(np.uint8)
    images = np.empty([86, 64, 64, 3], np.uint8)
    for image, smiles in zip(images, labels[:, NAMES.index("Smiling")]):
        image[:] = rng.integers(0, 256, 3)
        image[(y - 32) ** 2 + (x - 32) ** 2 < 24**2] = rng.integers(0, 256, 3)
        image[40 : 48 if smiles else 42, 22:42] = 255
    parts = (datasets.Split(images[part], labels[part]) for part in (slice(16), slice(16, 50), slice(50, 86)))
    return datasets.Dataset("drawn faces", "this test", NAMES, *parts)


@pytest.fixture
def images(row, faces, monkeypatch):
    """The images for the row: the faces or, for CIFAR-10, the faces at half the size with a class each."""
    script, name = row
    if MODULES[script].RUNS[name]["dataset"] == "cifar10":
        parts = [datasets.Split(part.images[:, ::2, ::2], np.arange(len(part.images)) % 10) for part in faces[3:6]]
        faces = datasets.Dataset("drawn faces", "this test", [*"abcdefghij"], *parts)
    monkeypatch.setattr(datasets, "load", lambda dataset: faces)
    return faces


def small(script, name):
    """Returns the row with a batch size of 4 and, if it has a width, narrow networks."""
    row = MODULES[script].RUNS[name]
    sizes = {"width": 8, "batches_per_step": 2} | ({"optimizer": "Adamax"} if name == "celeba_z512" else {})
    model = row["model"] | {key: value for key, value in sizes.items() if key in row["model"]}
    return {name: row | {"batch_size": 4, "model": model}}


@pytest.mark.parametrize("row", ROWS, ids="-".join)
def test_each_row_steps(row, images):
    """The weights change; a VAE's loss falls; XLA compiles every operation."""
    script, name = row
    settings = small(script, name)[name]
    model = MODULES[script].build(images.train.images.shape[1:], **settings["model"])
    batch = tf.constant(images.train.images[:4])
    if "labels" in settings:
        batch = batch, tf.constant(images.train.targets(settings["labels"], NAMES)[:4])
    step = tf.function(model.train_step, jit_compile=True)
    assert "HloModule" in step.experimental_get_compiler_ir(batch)(stage="hlo")
    before, losses = [weights.numpy() for weights in model.trainable_variables], []
    for _ in range(4 if script == "vae" else 1):
        model.reset_metrics()
        losses.append([float(value) for value in model.train_step(batch).values()])
    assert np.isfinite(losses).all() and (script != "vae" or losses[-1][0] < losses[0][0])
    assert np.mean([not np.array_equal(a, b) for a, b in zip(before, model.trainable_variables)]) > 0.9


def train(monkeypatch, folder, script, name, steps=2, generate=None):
    """Calls `training.train` for the row; returns its exit code."""
    module = MODULES[script]
    monkeypatch.setenv("RUNS_DIR", str(folder))
    monkeypatch.setenv("STEPS", str(steps))
    monkeypatch.setattr(sys, "argv", ["train.py", name])
    try:
        training.train(small(script, name), module.build, generate or module.generate, module.CURVES)
    except SystemExit as end:
        return end.code
    return 0


@pytest.mark.parametrize("row", STOPPED, ids="-".join)
def test_stopped_and_resumed_is_undisturbed(row, images, monkeypatch, tmp_path, capsys):
    script, name = row
    whole, stopped = (tmp_path / parent / script / f"{name}-steps2" for parent in ("whole", "stopped"))
    signals = iter([signal.SIGTERM])

    def generate(*arguments):
        for number in signals:  # only before the first step
            signal.raise_signal(number)
        return MODULES[script].generate(*arguments)

    assert train(monkeypatch, tmp_path / "stopped", *row, generate=generate) == 128 + signal.SIGTERM
    assert checkpoint.read_state(stopped).step == 1
    assert train(monkeypatch, tmp_path / "stopped", *row) == train(monkeypatch, tmp_path / "whole", *row) == 0
    assert "resuming from step 1" in capsys.readouterr().out
    ours, theirs = (arrays(folder / checkpoint.CHECKPOINT) for folder in (stopped, whole))
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        np.testing.assert_array_equal(ours[key], value, err_msg=key)
    assert (stopped / "log.csv").read_text() == (whole / "log.csv").read_text()


@pytest.mark.parametrize("row", [row for row in ROWS if row not in WIDE], ids="-".join)
def test_each_row_is_measured(row, images, monkeypatch, tmp_path):
    script, name = row
    assert train(monkeypatch, tmp_path, script, name) == 0
    folder, module = tmp_path / script / f"{name}-steps2", TESTS[script]
    networks = {"vae": ("decoder", "encoder"), "wgan": ("generator", "critic")}.get(script, ("generator",))
    networks += ("discriminator",) * (script == "infogan")
    few = functools.partial(TESTS["infogan"].attribute_numbers, count=10)  # images per value, not 200, for speed
    monkeypatch.setattr(TESTS["infogan"], "attribute_numbers", few)
    evaluation.test(small(script, name), networks, module.generate, module.CURVES, module.report)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["dataset"] == "drawn faces" and metrics["steps"] == 2
    assert metrics["steps_planned"] == MODULES[script].RUNS[name]["steps"]
    own, pictures = metrics["own"], {path.stem for path in folder.glob("*.png")}
    assert {"samples", "curves", "fid_by_step"} <= pictures
    if script == "vae":
        assert {"tsne", "decoded", "reconstructions", "interpolation"} <= pictures
        check_vae(folder, metrics, images)
    elif script in ("dcgan", "wgan"):
        assert {"interpolation", "extrapolation"} <= pictures
    elif script == "infogan":
        codes = [f"categorical {i + 1}" for i in range(5)]
        codes = codes if "5x10" in name else ["categorical 1", "continuous 1", "continuous 2"]
        assert {code.replace(" ", "_") for code in codes} == {stem for stem in pictures if stem[-1].isdigit()}
        for code in codes:
            most, changes = own[f"{code} changes most"], own[f"{code}: each attribute's change (share)"]
            assert list(changes) == classifier.readable_attributes()
            assert most == "nothing" or changes[most] == own[f"{code}: change (share)"] == max(changes.values())
    else:
        assert "pairs" in pictures and 0 <= own["other attributes changed by the label (share)"] <= 1
        asked, others = module.RUNS[name]["labels"], list(own["each changed by the label (share)"])
        assert others == [attribute for attribute in classifier.readable_attributes() if attribute != asked]
        assert own["asked label read (share)"] == pytest.approx(0.5, abs=0.05)  # two steps teach nothing


def check_vae(folder, metrics, images):
    """The networks with the lowest dev loss are measured if they are kept; the test MSE is given for both codes."""
    log = [(float(row["dev_loss"]), int(row["step"])) for row in checkpoint.read_log(folder)]
    best = min(log) if "celeba" in folder.name else None
    assert checkpoint.read_state(folder).best == (best and [*best])
    assert metrics["step measured"] == (best or log[-1])[1]
    assert {"linear probe, Male (accuracy)", "chance, Male (accuracy)"} <= metrics["own"].keys() or not best
    encoder, decoder = (checkpoint.load_network(folder / f"{name}.keras") for name in ("encoder", "decoder"))
    pixels = images.test.images.astype(np.float32) / 255
    mean, log_variance = encoder(pixels)
    drawn = mean + tf.exp(log_variance / 2) * tf.random.stateless_normal(mean.shape, [0, -4])
    for name, codes in (("test MSE", mean), ("test MSE, sampled codes", drawn)):
        expected = np.square(pixels - decoder(codes, training=False)).mean()
        assert metrics["own"][name] == pytest.approx(expected, rel=1e-4)


def test_the_lowest_dev_loss_is_kept_over_a_resume(faces, monkeypatch, tmp_path):
    """Steps that raise the dev loss, before and after a stop, leave the kept networks alone."""
    monkeypatch.setattr(datasets, "load", lambda dataset: faces)
    by_step = tf.constant([0.5, 0.2, 0.4, 0.3, 0.1])

    def test_step(self, images):
        self.means[0].reset_state()
        self.means[0].update_state(by_step[self.optimizer.iterations - 1])
        return self.get_metrics_result()

    monkeypatch.setattr(MODULES["vae"].VAE, "test_step", test_step)
    folder, seen = tmp_path / "vae" / "celeba_z512-steps5", []

    def generate(network, count, seed):
        state, path = checkpoint.read_state(folder), folder / "decoder.keras"
        seen.append((state and state.best, path.exists() and path.read_bytes()))
        if len(seen) == 3:  # at step 2: the next is the last
            signal.raise_signal(signal.SIGTERM)
        return MODULES["vae"].generate(network, count, seed)

    for step, code in ((3, 128 + signal.SIGTERM), (5, 0)):
        assert train(monkeypatch, tmp_path, "vae", "celeba_z512", 5, generate) == code
        assert checkpoint.read_state(folder).step == step
    best, networks = zip(*seen)
    # When a step's frame is drawn, these are from the steps before it.
    assert [value and [round(value[0], 3), value[1]] for value in best] == [None, None, [0.5, 1], *[[0.2, 2]] * 3]
    assert networks[3] == networks[4] == networks[5] != networks[2]
    assert checkpoint.read_state(folder).best[1] == 5 and (folder / "decoder.keras").read_bytes() != networks[5]
