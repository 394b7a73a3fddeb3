"""Which rows ./run_all.sh runs, in which order, and where."""

from types import SimpleNamespace

import psutil
import pytest

from common import plan, run_all, running
from common.files import UserError


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder with only the VAE's script, whose images count as available; RUNS_DIR is its runs/."""
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "train.py").touch()
    monkeypatch.setattr(plan, "ROOT", tmp_path)
    monkeypatch.setattr(plan.datasets, "load", lambda name: SimpleNamespace(identity={"images": "images"}))
    monkeypatch.setenv("RUNS_DIR", str(tmp_path / "runs"))
    return tmp_path


def write(text, *parts):
    path = parts[0].joinpath(*parts[1:])
    path.parent.mkdir(parents=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        (["mnist_z10"], ["vae mnist_z10"]),  # not mnist_z100
        (["vae", "mnist"], ["vae mnist_z100", "vae mnist_z3", "vae mnist_z10", "vae mnist_z64"]),
        (["celeba", "dcgan"], ["dcgan celeba_z100", "dcgan celeba_z128"]),
        (["wgan", "gp", "celeba"], ["wgan celeba_gp"]),
    ],
)
def test_words_choose_rows(words, rows):
    assert [each.title for each in plan.choose(words)] == rows


def test_words_that_match_nothing():
    with pytest.raises(UserError, match=r"matches stylegan: choose from acgan, celeba, .* without a word"):
        plan.choose(["mnist", "stylegan"])
    with pytest.raises(UserError, match="matches wgan and z100: choose from"):
        plan.choose(["wgan", "z100"])


def test_the_longest_first(root):
    write('{"steps": 5, "seconds": 10}', root, "results", "vae", "mnist_z3", "metrics.json")
    write('{"steps": 5, "seconds": 20}', root, "results", "vae", "mnist_z10", "metrics.json")
    write('{"steps": 5, "sec', root, "results", "vae", "mnist_z64", "metrics.json")
    jobs, _ = plan.plan(["mnist"])
    seconds = {job.experiment.name: job.seconds for job in jobs}
    assert seconds["mnist_z3"] == 50_000 + plan.TESTING and seconds["mnist_z64"] is None
    waiting = [job.experiment.name for job in run_all.RunAll(jobs, [], None).waiting]
    assert waiting == ["mnist_z100", "mnist_z64", "mnist_z10", "mnist_z3"]


def test_a_row_that_is_half_done_takes_as_long_again(root, monkeypatch):
    monkeypatch.setattr(plan.checkpoint, "read_state", lambda folder: SimpleNamespace(step=12_500, seconds=600))
    (each,) = plan.choose(["mnist_z3"])
    assert plan.estimate(each, ["train.py"]) == 600


@pytest.mark.parametrize(
    ("jobs", "gpus", "gigabytes", "expected"),
    [
        ("", [], 100, [[0, 4], [1, 5], [2], [3]]),  # as many as there are rows
        ("", [], 4, [[0, 2, 4], [1, 3, 5]]),
        ("", [], 1, [[]]),
        ("1", [], 100, [[]]),
        ("8", [], 100, [[0, 4], [1, 5], [2], [3]]),
        ("4", [], 1, [[0, 4], [1, 5], [2], [3]]),
        ("", ["0", "1"], 100, ["0", "1"]),
        ("3", ["4", "7"], 100, ["4", "7", "4"]),
    ],
)
def test_places(root, monkeypatch, jobs, gpus, gigabytes, expected):
    monkeypatch.setenv("JOBS", jobs)
    monkeypatch.setattr(running.devices, "available_cores", lambda: [0, 1, 2, 3, 4, 5])
    monkeypatch.setattr(running, "available_gpus", lambda: gpus)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=gigabytes * 1e9))
    places = running.places(plan.plan(["mnist"])[0])
    assert [place.variables["CUDA_VISIBLE_DEVICES"] if gpus else place.cores for place in places] == expected
    for place in places:
        share = place.variables.get("TF_FORCE_GPU_ALLOW_GROWTH") == "true"
        assert share == (len(places) > len(gpus) > 0)
        assert gpus or not place.cores or place.variables["OMP_NUM_THREADS"] == str(len(place.cores))


def test_a_dataset_that_cannot_be_read_does_not_stop_the_others(root, monkeypatch):
    def load(name):
        if name == "celeba":
            raise PermissionError(13, "denied", "faces.zip")
        return SimpleNamespace(identity={"images": "images"})

    monkeypatch.setattr(plan.datasets, "load", load)
    jobs, absent = plan.plan([])
    assert "faces.zip" in str(absent.pop("celeba")) and not absent
    assert {job.experiment.row["dataset"] for job in jobs if job.calls} == {"mnist", "cifar10"}


def test_a_row_waits_for_memory(root, monkeypatch):
    monkeypatch.delenv("JOBS", raising=False)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=7e9))
    write('{"peak_bytes": 6000000000}', root, "runs", "vae", "mnist_z10-seed1", "memory.json")
    (job,), _ = plan.plan(["mnist_z10"])
    assert job.memory == 6e9 and plan.plan(["mnist_z100"])[0][0].memory == plan.MEMORY
    rows = run_all.RunAll([job], [], None)
    assert rows.fits(job)
    rows.running = [SimpleNamespace(job=job, memory=5.5e9)]
    assert rows.fits(job)
    rows.running = [SimpleNamespace(job=job, memory=4e9)]  # it will take 2 more
    assert not rows.fits(job)
    monkeypatch.setenv("JOBS", "2")
    assert rows.fits(job)


@pytest.mark.parametrize(
    ("visible", "expected"), [(None, ["0", "1"]), ("2,3", ["2", "3"]), ("GPU-5c,3", ["GPU-5c", "3"])]
)
def test_gpus_by_name(monkeypatch, visible, expected):
    monkeypatch.setattr(running.devices, "GPUS", ["", ""])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert running.available_gpus() == expected
