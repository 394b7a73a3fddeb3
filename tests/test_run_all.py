"""The reproduction of two tiny rows, stopped and called again, beside one that fails and one without data."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from test_run import wait_for_line

import page
import run_all
from common import data, results
from common.data import ROOT

TRAIN = """
from common import run
import vae.train
from vae.train import CURVES, generate

ROW = vae.train.RUNS["mnist_z3"] | {"steps": 200}
RUNS = {
    "first": ROW, "broken": ROW | {"network": "Z"}, "faces": ROW | {"dataset": "celeba"}, "second": ROW | {"steps": 10}
}

def build(*arguments, **options):
    return vae.train.build(*arguments, **options)

if __name__ == "__main__":
    run.train(RUNS, build, generate, CURVES)
"""
TEST = """
from common import run
from tiny.train import CURVES, RUNS, generate

def report(run, networks, images):
    return {"dev ELBO (nats)": -1.0}

run.test(RUNS, ("decoder",), generate, CURVES, report)
"""


@pytest.fixture
def call(tmp_path):
    """Starts run_all.sh of a project with one script, from another folder."""
    project = tmp_path / "tiny prøject"
    (project / "tiny").mkdir(parents=True)
    for name in ("run_all.sh", "run_all.py", "page.py"):
        shutil.copy(ROOT / name, project)
    (project / "tiny" / "train.py").write_text(TRAIN)
    (project / "tiny" / "test.py").write_text(TEST)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"RUNS_DIR": str(tmp_path / "runs"), "PYTHONPATH": str(project), "PATH": path}

    def start(*words, **variables):
        return subprocess.Popen(
            [project / "run_all.sh", *words], env=environment | variables, cwd=tmp_path, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    start.project = project
    return start


def test_stopped_in_the_middle_and_called_again(call, tmp_path, monkeypatch):
    damaged = call.project / "results" / "tiny" / "first" / "metrics.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text('{"model": "tiny", "ru')
    with call() as process:
        text = wait_for_line(process, "  step ")
        process.send_signal(signal.SIGTERM)
        text += process.stdout.read()
    assert process.returncode == 128 + signal.SIGTERM
    assert "rows: 4, to do: 3" in text and "=== 1 of 3: tiny first" in text and "no celeba" in text
    assert text.rstrip().endswith("stopped; the same command goes on")
    assert "`tiny/first` (damaged)" in (call.project / "RESULTS.md").read_text()
    assert not (tmp_path / "runs" / "tiny" / "first" / "metrics.json").exists()

    with call() as process:
        wait_for_line(process, "going on from step")
        process.kill()  # and its train.py lives on, until it prints

    with call() as process:
        text, errors = process.communicate()
    assert process.returncode == 1, errors
    assert "going on from step" in text and "at work in" not in text.split("=== 2 of 4")[1]
    assert "=== 2 of 4 rows are trained and tested" in text and "without celeba: tiny faces" in text
    assert "FAILED tiny broken: train.py ended with exit code 1: KeyError: 'Z'" in text
    assert text.index("kept ") < text.index("tiny broken;")  # at once
    table = (call.project / "RESULTS.md").read_text().split("## The reports' figures")[0]
    assert "| `tiny` `first` | " in table and "| `tiny` `second` | " in table and "faces" not in table
    assert (call.project / "results" / "tiny" / "second" / "samples.png").exists()
    log = (tmp_path / "runs" / "tiny" / "first.log").read_text()
    assert "stopping after this step" in log and "done: metrics.json" in log

    monkeypatch.setattr(run_all, "ROOT", call.project)
    monkeypatch.syspath_prepend(call.project)
    monkeypatch.setenv("RUNS_DIR", str(tmp_path / "runs"))
    jobs, _ = run_all.plan([])
    assert {job.run.name: job.calls for job in jobs if job.source} == {
        "first": [], "second": [], "broken": ["train.py", "test.py"]
    }  # fmt: skip


def test_a_rehearsal_stays_apart(call, tmp_path):
    write(call.project, "tiny", "first")
    (call.project / "RESULTS.md").write_text("the page")
    before = {path: path.read_bytes() for path in call.project.rglob("*") if path.is_file() and "pyc" not in path.name}
    with call("second", STEPS="2") as process:
        errors = process.communicate()[1]
    assert process.returncode == 0, errors
    after = {path: path.read_bytes() for path in call.project.rglob("*") if path.is_file() and "pyc" not in path.name}
    assert after == before
    text = (tmp_path / "runs" / "rehearsal-steps2" / "RESULTS.md").read_text()
    assert "| `tiny` `second` | " in text and "`first`" not in text and text.startswith("# Rehearsal of 2 steps: ")


def test_words_that_match_nothing():
    with pytest.raises(data.UserError, match=r"no row is called stylegan: words are of acgan, .* without one"):
        run_all.plan(["mnist", "stylegan"])
    with pytest.raises(data.UserError, match="no row is called wgan and z100: words are of"):
        run_all.plan(["wgan", "z100"])


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        (["mnist_z10"], ["vae mnist_z10"]),  # and not mnist_z100
        (["vae", "mnist"], ["vae mnist_z100", "vae mnist_z3", "vae mnist_z10", "vae mnist_z64"]),
        (["celeba", "dcgan"], ["dcgan celeba_z100", "dcgan celeba_z128"]),
        (["gp"], ["wgan cifar10_gp", "wgan celeba_gp"]),
    ],
)
def test_words_choose_rows(words, rows):
    assert [job.run.title for job in run_all.plan(words)[0]] == rows


METRICS = {
    "FID (classifier)": 50.0, "KID (classifier)": 1.5, "KID standard error": 0.25, "precision": 0.5, "recall": 0.25,
    "FID (Inception)": None, "sharpness": 0.1, "high frequencies (share of energy)": 0.05, "classes covered": 10,
    "nearest training image (grey levels)": 30.0,
}  # fmt: skip


def write(folder, model, run, own=None, seed=0, dataset="MNIST", steps=300, **metrics):
    result = {
        "model": model, "run": run, "dataset": dataset, "images": {"training": 55_000, "dev": 5_000, "test": 10_000},
        "steps": steps, "seconds": 60.0, "steps_planned": 25_000, "seed": seed,
        "metrics": METRICS | metrics, "own": own or {}, "real dev images": METRICS | {"recall": 0.9},
        "reported": {"A": {"FID": 25.411}},
    }  # fmt: skip
    path = folder / "results" / model / (run + f"-seed{seed}" * (seed > 0))
    path.mkdir(parents=True)
    (path / "metrics.json").write_text(json.dumps(result))
    return path / "metrics.json"


def text(folder):
    return page.text(page.Results(folder / "results"))


def cells(folder, start):
    (line,) = [line for line in text(folder).splitlines() if line.startswith(start)]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_shows_medians_and_what_is_damaged(tmp_path):
    for seed, value in enumerate((7.0, 5.0, 9.0)):
        own = {"code is the digit read (share)": value / 10}
        write(tmp_path, "infogan", "mnist", own, seed, **{"FID (classifier)": value})
    write(tmp_path, "dcgan", "mnist")
    write(tmp_path, "wgan", "mnist").write_text('{"model": "wgan", "run": "mn')
    write(tmp_path, "acgan", "mnist").write_text('{"model": "acgan", "run": "mnist"}')
    row = cells(tmp_path, "| `infogan` `mnist` | MNIST")
    assert row[:6] == ["`infogan` `mnist`", "MNIST: 55,000, 5,000, 10,000", "300 of 25,000", "0, 1, 2", "unmeasured",
                       "7.00 (5.00 to 9.00)"]  # fmt: skip
    assert row[-2:] == ["code is the digit 70.0% (50.0% to 90.0%)", "A: FID 25.411"]
    assert cells(tmp_path, "| `dcgan` `mnist` | MNIST")[5] == "50.00"
    write(tmp_path, "dcgan", "mnist", seed=1, **{"FID (classifier)": None})
    assert cells(tmp_path, "| `dcgan` `mnist` | MNIST")[5] == "50.00, 1 of 2 seeds"
    assert text(tmp_path).splitlines()[-1] == "Left out: `acgan/mnist` (damaged), `wgan/mnist` (damaged)."


def test_seeds_of_fewer_steps_or_other_images_are_not_in_the_median(tmp_path):
    for seed, steps in ((0, 25_000), (1, 20_000), (2, 25_000), (3, 25_000)):
        path = write(tmp_path, "dcgan", "mnist", seed=seed, steps=steps, **{"FID (classifier)": 10.0 * seed})
    path.write_text(path.read_text().replace("55000", "3500"))
    assert cells(tmp_path, "| `dcgan` `mnist` | MNIST")[2:6] == [
        "25,000",
        "0, 2",
        "unmeasured",
        "10.00 (0.00 to 20.00)",
    ]
    assert (
        text(tmp_path).splitlines()[-1]
        == "Left out: `dcgan/mnist-seed1` (of fewer images or steps), `dcgan/mnist-seed3` (of fewer images or steps)."
    )


def test_unlike_runs_are_not_compared(tmp_path):
    write(tmp_path, "wgan", "cifar10_div", steps=10_000)
    write(tmp_path, "wgan", "cifar10_gp", steps=600)
    assert "WGAN-DIV and WGAN-GP: not compared, as the runs are of different images, or of" in text(tmp_path)


def test_a_page_of_nothing(tmp_path):
    assert text(tmp_path).count("not trained") > 20


def test_the_latent_dimensions_sentence(tmp_path):
    def vae(size, fid, kl):
        own = {"dev ELBO (nats)": -100.0 - kl, "dev reconstruction (nats)": 100.0 - kl, "dev KL (nats)": kl}
        write(tmp_path, "vae", f"mnist_z{size}", own | {"active units": size // 2}, **{"FID (classifier)": fid})

    for size, fid, kl in ((3, 90.0, 0.1), (10, 80.0, 15.0), (64, 61.0, 20.0)):
        vae(size, fid, kl)
    assert "lowest with" not in text(tmp_path)
    vae(100, 60.0, 25.0)
    said = text(tmp_path)
    assert "The FID is lowest with 64 and 100 dimensions (A's and E's are with 100: this agrees)" in said
    assert "the dev ELBO highest with 3. Reconstruction is best with 100 and worst with 3" in said
    assert "With 3 the KL is 0.1 nats (A saw it fall to about 0: this agrees). Of 64 units 32 are active" in said
    assert cells(tmp_path, "| `vae` `mnist_z10` | 80.0")[1:] == ["80.0", "-115.00", "85.00", "15.00", "5"]


@pytest.mark.parametrize(("values", "answer"), [((0.52, 0.49, 0.47, 0.51), "yes"), ((0.85, 0.16, 0.1, 0.99), "no")])
def test_the_equilibriums_sentence(tmp_path, values, answer):
    keys = "last tenth: d_real", "last tenth: d_fake_before", "last tenth: d_fake_after"
    write(tmp_path, "dcgan", "mnist", dict(zip((*keys, "fresh discriminator: told right (share)"), values)))
    said = text(tmp_path)
    assert f"On MNIST {answer}: over the last tenth" in said
    if answer == "no":
        assert "D(x) is +0.35 and D(G(z)) -0.34 from one half, and D's own update moves D(G(z)) by -0.06" in said
        assert "tells 99% of new images right" in said and "which this agrees with" in said


def test_the_blurs_sentence(tmp_path):
    write(tmp_path, "vae", "mnist_z100", sharpness=0.05, **{"high frequencies (share of energy)": 0.01})
    write(tmp_path, "dcgan", "mnist")
    assert (
        "On MNIST the VAE by the variance of the Laplacian (0.050 for the VAE, 0.100 for the GAN), and the VAE by the "
        "spectrum's tail (1.00% of the energy and 5.00%). (A found the VAE blurrier: this agrees.)"
    ) in text(tmp_path)


@pytest.mark.parametrize(
    ("biased", "said"),
    [
        (35.0, "35.0, without 32.0 (30.0 to 34.0): 1.09 times as much, no more than seeds differ without"),
        (64.0, "64.0, without 32.0 (30.0 to 34.0): 2.00 times as much, more than seeds differ without"),
    ],
)
def test_the_biass_sentence(tmp_path, biased, said):
    for seed, fid in enumerate((30.0, 32.0, 34.0)):
        write(tmp_path, "dcgan", "mnist", seed=seed, **{"FID (classifier)": fid})
    write(tmp_path, "dcgan", "mnist_bias", **{"FID (classifier)": biased})
    line = next(line for line in text(tmp_path).splitlines() if "With a bias" in line)
    assert said in line and f"this {'agrees' if biased == 64 else 'differs by being less'}.)" in line


def test_the_separations_sentence(tmp_path):
    own = {"linear probe, Male (accuracy)": 0.9, "chance, Male (accuracy)": 0.58,
           "linear probe, Smiling (accuracy)": 0.55, "chance, Smiling (accuracy)": 0.5}  # fmt: skip
    write(tmp_path, "vae", "celeba_z512", own)
    said = text(tmp_path)
    assert "(steps: 300 of 25,000) reads Male of 2 attributes right by ten points more than chance" in said
    assert cells(tmp_path, "| `vae` `celeba_z512`: Smiling")[1:] == ["55.0%", "50.0%"]


def test_the_smoothnesss_sentence(tmp_path):
    names = ["a step of eight (feature distance)", "longest step (of the mean step)", "length (of its ends' distance)",
             "FID of its ends (classifier)", "FID of its midpoints (classifier)", "confidence at its ends",
             "confidence at its midpoints"]  # fmt: skip
    keys = [f"latent path: {name}" for name in names]
    write(tmp_path, "vae", "mnist_z100", dict(zip(keys, (2.0, 1.5, 1.2, 100.0, 150.0, 0.99, 0.8))))
    write(tmp_path, "dcgan", "mnist", dict(zip(keys, (3.0, 2.5, 1.4, 40.0, 80.0, 0.95, 0.9))))
    said = text(tmp_path)
    assert "go 1.20 times as far as straight on, in the classifier's features, the GAN's 1.40 times" in said
    assert "has changed by -0.190 with the VAE, by -0.050 with the GAN" in said
    assert "By the paths this agrees, by the confidence, which leaves digits where it falls by 0.02 or" in said
    assert "more, it differs.) Halfway the FID changes by +50.0 and +40.0:" in said


def test_the_collapses_sentence(tmp_path):
    for seed, classes in enumerate((10, 8, 10)):
        write(tmp_path, "dcgan", "mnist", seed=seed, recall=0.1, **{"classes covered": classes})
    write(tmp_path, "acgan", "mnist", **{"nearest training image (grey levels)": 12.0})
    write(tmp_path, "dcgan", "celeba_z100", dataset="13,859 CelebA faces", **{"classes covered": None})
    said = text(tmp_path)
    assert (
        "Of 2 runs whose classes are counted fewer than ten classes are in `dcgan mnist` (8). The least varied is "
        "`dcgan mnist`, recall 0.100 where" in said
    )
    assert "30.0 grey levels a pixel away, are those of `acgan mnist` (12.0, sharpness 0.100): what is" in said


def test_the_sentences_of_cifar10(tmp_path):
    dataset = "16,000 CIFAR-10 images"
    for name, mse, kl in (("beta2", 0.03, 6.0), ("beta4", 0.04, 4.0), ("beta6", 0.05, 3.0)):
        write(tmp_path, "vae", f"cifar10_{name}", {"test MSE": mse, "test KL (nats)": kl}, dataset=dataset)
    for name, fid, steps in (("div", 14.0, 300), ("gp", 15.0, 301)):
        path = write(tmp_path, "wgan", f"cifar10_{name}", dataset=dataset, steps=steps, **{"FID (classifier)": fid})
        by_step = {"90": fid, "200": fid + 10.0, str(steps): 1.0}
        path.write_text(json.dumps(json.loads(path.read_text()) | {"FID by step": by_step}))
    said = text(tmp_path)
    assert (
        "After 300 of 25,000 and 301 of 25,000 steps the FID is 14.00 with WGAN-DIV and 15.00 with WGAN-GP; against "
        "the dev images, both at step 200, 24.00 and 25.00."
    ) in said
    assert "After 300 of 25,000 steps with beta 2, 4, 6 the test MSE is 0.0300, 0.0400, 0.0500 and the KL 6.00" in said
    assert "3.00 nats: as D saw." in said


def test_the_codes_sentence(tmp_path):
    write(tmp_path, "acgan", "mnist", {"asked label read (share)": 0.9, "label read off real dev images (share)": 0.99})
    own = {"code is the digit read (share)": 0.8, "Q tells real test images' digits (share)": 0.7}
    write(tmp_path, "infogan", "mnist", own)
    said = text(tmp_path)
    assert (
        "Off 90.0% of the images of `acgan mnist` a classifier reads the label that was asked for; off real ones it "
        in said
    )
    assert "is the digit in 80.0% of its images, and its Q tells 70.0% of the real test digits." in said


def test_every_row_and_figure_that_is_named_is_there():
    for _, _, model, run, file in page.FIGURES:
        assert run in import_module(f"{model}.train").RUNS
        kept = "mnist" in run or Path(file).stem not in ("reconstructions", "dev_sheet")
        if kept and (ROOT / "results" / model / run).is_dir():
            assert (ROOT / "results" / model / run / file).is_file()


def test_the_pages_are_those_of_results():
    """RESULTS.md and README.md's table as their writers write them; what they show and name is there."""
    found, readme = page.Results(ROOT / "results"), (ROOT / "README.md").read_text()
    written = page.text(found)
    assert (ROOT / "RESULTS.md").read_text() == written and results.table() in readme
    for path in re.findall(r'results/[^\s"`)]*\.\w+', readme + written):
        assert (ROOT / path).is_file(), path
    for question in page.QUESTIONS:
        lines, keys, _, pictures = question(found)
        for column in range(1, 1 + len(keys)):
            assert {line[column] for line in lines} - {"", page.UNMEASURED, "not trained"}, [*keys][column - 1]
        named = [tuple(re.findall("`(.*?)`", line[0])) for line in lines] + [(model, run) for model, run, _ in pictures]
        for model, run in filter(None, named):
            assert run in import_module(f"{model}.train").RUNS
