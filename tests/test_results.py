import csv
import json
import shutil

import keras
import numpy as np
from PIL import Image

import dcgan.train
import vae.train
from common import plots, results, run

METRICS = {
    "FID (classifier)": 12.3456, "KID (classifier)": 1.5, "KID standard error": 0.25, "precision": 0.5, "recall": 0.25,
    "FID (Inception)": None, "sharpness": 0.125, "nearest training image (grey levels)": 30.0,
}  # fmt: skip


RESULT = {
    "model": "vae", "run": "mnist_z100", "dataset": "MNIST", "steps": 25_000, "steps_planned": 25_000, "seed": 0,
    "images": {"training": 55_000}, "seconds": 600.0, "metrics": METRICS,
    "real dev images": METRICS | {"FID (classifier)": 2.0}, "own": {"dev ELBO (nats)": -101.234},
    "reported": {"A": {"FID": 46.601}, "E": {"FID": 95.49}},
}  # fmt: skip


def make_run(folder):
    """A folder as train.py and test.py leave it, of a decoder that is not trained."""
    (folder / "samples").mkdir(parents=True)
    row = {key: value for key, value in vae.train.RUNS["mnist_z100"].items() if key not in run.OURS}
    vae.train.build((32, 32, 1), **row).networks()["decoder"].save(folder / "decoder.keras")
    (folder / "metrics.json").write_text(json.dumps(RESULT))
    Image.fromarray(np.zeros([8, 8], np.uint8)).save(folder / "samples.png")
    for name in ("training.gif", "~draft.png", "encoder.keras"):
        (folder / name).write_bytes(b"picture")
    with open(folder / "log.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["step", "loss", "dev_loss"])
        writer.writeheader()
        writer.writerows({"step": i, "loss": 1, "dev_loss": 2 if i == 777 else ""} for i in range(1, 2501))


def test_keep_and_table(tmp_path, monkeypatch):
    make_run(tmp_path / "run")
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    target = tmp_path / "results" / "vae" / "mnist_z100"
    results.keep(tmp_path / "run", target, RESULT)
    kept = {path.name for path in target.iterdir()}
    assert kept == {"metrics.json", "samples.png", "training.gif", "log.csv", "decoder.keras"}
    with open(target / "log.csv", newline="") as file:
        steps = [int(row["step"]) for row in csv.DictReader(file)]
    assert steps == sorted({*range(10, 2501, 10), 777})

    before, after = tmp_path / "run" / "decoder.keras", target / "decoder.keras"
    assert after.stat().st_size < 0.65 * before.stat().st_size
    images = [vae.train.generate(keras.saving.load_model(path), 16, 0).astype(int) for path in (before, after)]
    assert np.abs(images[0] - images[1]).max() <= 1

    shutil.copytree(target, target.with_name("~mnist_z100"))  # which a kill has left
    head, line, measured, floor = results.table().splitlines()
    cells = [cell.strip() for cell in measured.strip("|").split("|")]
    assert cells[:3] == ["`vae` `mnist_z100`", "MNIST", "25,000"]
    assert cells[3:] == [
        "12.35", "1.50 ± 0.25", "0.500", "0.250", "0.125", "unmeasured", "dev ELBO (nats) -101.23", "10",
        "A: FID 46.601, E: FID 95.49",
    ]  # fmt: skip
    assert "2.00" in floor and "real" in floor
    assert head.count("|") == line.count("|") == measured.count("|") == floor.count("|")


def test_the_lines_of_a_figure_keep_their_colours(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "kept").mkdir()
    (tmp_path / "run" / "training.gif").write_bytes(b"picture")
    log = run.read_log(results.RESULTS / "dcgan" / "mnist")
    plots.curves(log, dcgan.train.CURVES, tmp_path / "run" / "curves.png", "title")
    results.keep_pictures(tmp_path / "run", tmp_path / "kept", digits=True)
    before, after = (
        np.asarray(Image.open(tmp_path / part / "curves.png").convert("RGB"), int) for part in ("run", "kept")
    )
    for colour in plots.COLOURS[:3]:
        line = (before == [int(colour[i : i + 2], 16) for i in (1, 3, 5)]).all(-1)
        assert line.sum() > 100 and np.abs(after[line] - before[line]).max() < 16


def test_another_seeds_numbers_alone_are_kept(tmp_path):
    make_run(tmp_path / "run")
    results.keep(tmp_path / "run", tmp_path / "kept", RESULT | {"seed": 1})
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["metrics.json"]


def test_faces_are_not_published(tmp_path, monkeypatch):
    """Nor is the network of a row that is not the first; and the steps done of a run that has not ended are said."""
    make_run(tmp_path / "run")
    metrics = RESULT | {"run": "celeba_z512", "dataset": "13,859 CelebA faces", "steps": 300, "own": {"test MSE": 0.01}}
    (tmp_path / "run" / "metrics.json").write_text(json.dumps(metrics))
    drawn = "reconstructions", "dev_sheet", "interpolation", "decoded", "pairs", "categorical_1", "samples_and_real"
    for name in drawn:
        Image.fromarray(np.zeros([8, 8], np.uint8)).save(tmp_path / "run" / f"{name}.png")
    row = {key: value for key, value in vae.train.RUNS["celeba_z512"].items() if key not in run.OURS}
    vae.train.build((64, 64, 3), **row).networks()["decoder"].save(tmp_path / "run" / "decoder.keras")
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    target = tmp_path / "results" / "vae" / "celeba_z512"
    results.keep(tmp_path / "run", target, metrics)
    kept = {path.name for path in target.iterdir()}
    pictures = {"samples.png", "decoded.png", "pairs.png", "categorical_1.png"}
    assert kept == {"metrics.json", "log.csv", "training.gif"} | pictures
    assert "| 300 of 25,000 |" in results.table() and "| test MSE 0.01000 |" in results.table()


def test_what_is_worth_keeping(tmp_path):
    """Nothing of fewer images or steps than what is there, and no rehearsal."""
    target = tmp_path / "mnist_z100"
    target.mkdir()
    there = RESULT | {"steps": 20_000}
    assert results.worth_keeping(there, target)
    (target / "metrics.json").write_text(json.dumps(there))
    assert results.worth_keeping(there, target) and results.worth_keeping(RESULT, target)
    assert not results.worth_keeping(there | {"steps": 19_999}, target)
    assert not results.worth_keeping(RESULT | {"images": {"training": 3_500}}, target)
    assert not results.worth_keeping(there, tmp_path / "mnist_z10-steps300")
    (target / "metrics.json").write_text(json.dumps(there | {"measures": 2}))
    assert not results.worth_keeping(RESULT, target)
    assert results.worth_keeping(RESULT | {"measures": 2}, target)
    (target / "metrics.json").write_text('{"images": {"trai')
    assert results.worth_keeping(there, target)


def test_collect_does_what_is_new(tmp_path, capsys):
    """A run that is there already is left alone; one that is damaged or misses a picture keeps no other."""
    make_run(tmp_path / "runs" / "mnist_z100")
    make_run(tmp_path / "runs" / "mnist_z3")
    (tmp_path / "runs" / "mnist_z3" / "training.gif").unlink()
    make_run(tmp_path / "runs" / "mnist_z64")
    (tmp_path / "runs" / "mnist_z64" / "metrics.json").write_text("{")
    folders = sorted((tmp_path / "runs").iterdir(), reverse=True)
    results.collect(folders, tmp_path / "results")
    out = capsys.readouterr().out
    assert out.count("not kept: ") == 2 and "training.gif" in out and "metrics.json is damaged" in out
    kept = tmp_path / "results" / "vae" / "mnist_z100" / "decoder.keras"
    before = kept.stat().st_mtime_ns
    results.collect(folders, tmp_path / "results")
    assert kept.stat().st_mtime_ns == before
    # A later run that can't be kept leaves what is there.
    whole = {path.name: path.read_bytes() for path in kept.parent.iterdir()}
    (tmp_path / "runs" / "mnist_z100" / "metrics.json").write_text(json.dumps(RESULT | {"steps": 25_001}))
    decoder = tmp_path / "runs" / "mnist_z100" / "decoder.keras"
    decoder.write_bytes(decoder.read_bytes()[:-1000])
    results.collect(folders[-1:], tmp_path / "results")
    assert "not kept: " in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in kept.parent.iterdir()} == whole
    (tmp_path / "runs" / "mnist_z100" / "metrics.json").write_text(json.dumps(RESULT | {"steps": 20}))
    results.collect(folders[-1:], tmp_path / "results")
    assert "is of more images, steps or measures than" in capsys.readouterr().out


def test_the_table_of_no_results(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    assert len(results.table().splitlines()) == 2
