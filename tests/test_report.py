"""What is kept of runs, tested on made-up ones."""

import csv
import json

import keras
import numpy as np
from PIL import Image

import vae.train
from common import plots, report, tables

METRICS = {
    "FID (classifier)": 12.3456, "KID (classifier)": 1.5, "KID standard error": 0.25, "precision": 0.5, "recall": 0.25,
    "sharpness": 0.125, "FID (Inception)": None,
}  # fmt: skip
RESULT = {
    "model": "vae", "run": "mnist_z3", "dataset": "MNIST", "images": {"training": 55_000}, "steps": 25_000,
    "steps_planned": 25_000, "step measured": 25_000, "seed": 0, "seconds": 600.0, "measures": 3, "metrics": METRICS,
    "real dev images": METRICS | {"FID (classifier)": 2.0},
    "own": {"dev ELBO (nats)": -220.34, "dev KL (nats)": 4.2, tables.UNITS: 2},
    "reported": {"A, text": {tables.REPORT_FID: 112.661}, "A, figure": {"dev_loss": {"25000": 271}}},
    "beside the reports": {
        "A, text": {tables.REPORT_FID: {"reported": 112.661, "ours": None}},
        "A, figure": {"dev_loss at step 25,000": {"reported": 271, "ours": 220.34}},
    },
}  # fmt: skip
CELEBA = {"run": "celeba_z512", "dataset": "CelebA", "steps": 300, "step measured": 200, "own": {"test MSE": 0.01},
          "beside the reports": {"C": {}}}  # fmt: skip


def make_run(folder, pictures=("samples",), **changes):
    """Makes a folder as train.py and test.py leave it."""
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(RESULT | changes))
    for name in pictures:
        Image.fromarray(np.zeros([8, 8], np.uint8)).save(folder / f"{name}.png")
    for name in ("training.gif", "~draft.png", "encoder.keras"):
        (folder / name).write_bytes(b"picture")
    lines = [f"{step},1,{2 if step % 777 == 0 else ''}\n" for step in range(1, 2501)]
    (folder / "log.csv").write_text("".join(["step,loss,dev_loss\n", *lines]))
    return folder


def steps(folder):
    with open(folder / "log.csv", newline="") as file:
        return [int(line["step"]) for line in csv.DictReader(file)]


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_a_kept_run(tmp_path):
    """Its network draws the same images, and takes half the space."""
    run, target = make_run(tmp_path / "mnist_z100", run="mnist_z100"), tmp_path / "results" / "vae" / "mnist_z100"
    model = vae.train.build((32, 32, 1), **vae.train.RUNS["mnist_z100"]["model"])
    model.networks()["decoder"].save(run / "decoder.keras")
    report.publish(run, tmp_path / "results")
    assert names(target) == {"metrics.json", "samples.png", "training.gif", "log.csv", "decoder.keras"}
    assert steps(target) == sorted({*range(10, 2501, 10), 777, 1554, 2331})
    paths = run / "decoder.keras", target / "decoder.keras"
    assert paths[1].stat().st_size < 0.65 * paths[0].stat().st_size
    images = [vae.train.generate(keras.saving.load_model(path), 16, 0).astype(int) for path in paths]
    assert np.abs(images[0] - images[1]).max() <= 1


def test_what_is_kept_of_others(tmp_path):
    """Of other seeds only the dev losses; no original colour images; no network of a row that is not the first."""
    report.publish(make_run(tmp_path / "mnist_z3-seed1", seed=1), tmp_path)
    assert names(tmp_path / "vae" / "mnist_z3-seed1") == {"metrics.json", "log.csv"}
    assert steps(tmp_path / "vae" / "mnist_z3-seed1") == [777, 1554, 2331]
    shown = {"decoded", "pairs", "categorical_1", "interpolation"}
    faces = make_run(tmp_path / "celeba_z512", (*shown, "reconstructions", "dev_sheet", "new_figure"), **CELEBA)
    report.publish(faces, tmp_path)
    kept = {"metrics.json", "log.csv", "training.gif", *(f"{name}.png" for name in shown)}
    assert names(tmp_path / "vae" / "celeba_z512") == kept


def test_what_replaces_what(tmp_path, capsys):
    """Rehearsals, damaged and lesser runs are not kept; a run that can't be copied whole replaces nothing."""
    make_run(tmp_path / "mnist_z3-steps300")
    (make_run(tmp_path / "mnist_z10") / "metrics.json").write_text('{"model": "vae", ')
    for folder in (tmp_path / "mnist_z3-steps300", tmp_path / "mnist_z10"):
        report.publish(folder, tmp_path / "results")
    assert "metrics.json is damaged" in capsys.readouterr().out and not (tmp_path / "results").exists()

    run, target = make_run(tmp_path / "mnist_z3"), tmp_path / "results" / "vae" / "mnist_z3"
    for changes, said in (
        ({}, "kept"), ({}, ""), ({"measures": 2}, "not kept:"), ({"steps": 24_999}, "not kept:"),
        ({"images": {"training": 3_500}}, "not kept:"), ({"measures": 4}, "kept"),
    ):  # fmt: skip
        (run / "metrics.json").write_text(json.dumps(RESULT | changes))
        report.publish(run, tmp_path / "results")
        assert capsys.readouterr().out.split(" /")[0] == said, changes
    assert report.read(target / "metrics.json")["measures"] == 4

    before = {path.name: path.read_bytes() for path in target.iterdir()}
    (run / "metrics.json").write_text(json.dumps(RESULT | {"measures": 5}))
    (run / "training.gif").unlink()
    report.publish(run, tmp_path / "results")
    assert "training.gif" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before


def test_kept_figures_keep_their_colours_and_are_small(tmp_path, monkeypatch):
    log = [{"step": step, "a": step % 7, "b": 9 + step % 5, "c": 18 + step % 3} for step in range(200)]
    plots.curves(log, {"loss": ["a", "b", "c"]}, tmp_path / "curves.png", "title")
    figure = Image.open(tmp_path / "curves.png").convert("RGB")
    report.save_picture(figure, tmp_path / "kept.png")
    before, after = (
        np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB"), int) for name in ("curves", "kept")
    )
    for colour in plots.COLOURS[:3]:
        line = (before == [int(colour[i : i + 2], 16) for i in (1, 3, 5)]).all(-1)
        assert line.sum() > 100 and np.abs(after[line] - before[line]).max() < 16
    monkeypatch.setattr(report, "LARGEST_PICTURE", 9_000)
    report.save_picture(figure, tmp_path / "kept.png")
    assert (tmp_path / "kept.png").stat().st_size < 9_000
