"""Rows in parallel: of a model whose training only sleeps, and one real row."""

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from common import checkpoint, evaluation, experiment, plan, run_all, running
from common.files import ROOT, UserError

TRAIN = """
ROW = dict(dataset="mnist", steps=10, reported={})
RUNS = {"short": ROW, "long": ROW | {"steps": 20}, "broken": ROW, "faces": ROW | {"dataset": "celeba"}}

if __name__ == "__main__":
    import fcntl, json, os, signal, sys, time
    from pathlib import Path

    import h5py

    name, runs = sys.argv[1], Path(os.environ["RUNS_DIR"])
    folder, row = runs / "tiny" / name, RUNS[name]
    if hasattr(os, "sched_getaffinity"):
        print(f"cores {len(os.sched_getaffinity(0))}, threads {os.environ['TF_NUM_INTRAOP_THREADS']}")
    if name == "broken":
        raise KeyError("Z")
    fcntl.flock(open(folder / ".lock", "w"), fcntl.LOCK_EX | fcntl.LOCK_NB)
    path, step, signals = folder / "checkpoint.weights.h5", 0, []
    signal.signal(signal.SIGINT, lambda number, frame: signals.append(number))
    signal.signal(signal.SIGTERM, lambda number, frame: signals.append(number))
    if path.exists():
        step = json.loads(h5py.File(path).attrs["state"])["step"]
        print(f"going on from step {step}")
    (folder / "log.csv").write_text(f"step,loss\\n{step},1.0\\n")
    while step < row["steps"] and not signals:
        time.sleep(float(os.environ["PAUSE"]))
        step += 1
        print(f"{step},1.0", file=open(folder / "log.csv", "a"))
    row = {key: value for key, value in row.items() if key != "reported"} | {"images": "MNIST"}
    with h5py.File(folder / "draft", "w") as file:
        file.attrs["state"] = json.dumps({"step": step, "seconds": step * 60.0, "row": row, "seed": 0})
    (folder / "draft").rename(path)
    if signals:
        sys.exit(128 + signals[0])
    print(f"train {name}", file=open(runs / "calls", "a"))
"""
TEST = """
import json, os, sys
from pathlib import Path

name, runs = sys.argv[1], Path(os.environ["RUNS_DIR"])
result = {"steps": {"short": 10, "long": 20}[name], "dataset": "MNIST", "measures": int(os.environ["MEASURES"])}
(runs / "tiny" / name / "metrics.json").write_text(json.dumps(result))
print(f"test {name}", file=open(runs / "calls", "a"))
"""
ALL_CALLS = ["test long", "test short", "train long", "train short"]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny prøject")
    (folder / "tiny").mkdir()
    (folder / "tiny" / "train.py").write_text(TRAIN)
    (folder / "tiny" / "test.py").write_text(TEST)
    return folder


def load(name):
    if name == "celeba":
        raise UserError("no faces")
    return SimpleNamespace(identity={"images": "MNIST"})


@pytest.fixture
def runs(project, tmp_path, monkeypatch):
    """The RUNS_DIR of run_all in the tiny project, with short pauses and a page that only names its arguments."""

    def write_page(page, paths, title):
        page.write_text(f"{title}: {' '.join(path.parent.name for path in paths)}")

    monkeypatch.delenv("JOBS", raising=False)
    monkeypatch.setattr(plan, "ROOT", project)
    monkeypatch.syspath_prepend(project)
    monkeypatch.setattr(plan.datasets, "load", load)
    monkeypatch.setattr(run_all.report, "write_page", write_page)
    monkeypatch.setattr(run_all, "TICK", 0.02)
    monkeypatch.setattr(run_all, "LOOK_AGAIN", 0.1)
    for name, value in {"RUNS_DIR": str(tmp_path), "MEASURES": str(evaluation.MEASURES), "PAUSE": "0.05"}.items():
        monkeypatch.setenv(name, value)
    return tmp_path


@pytest.fixture
def start():
    """Starts another run_all, which is killed after the test."""
    started = []

    def call(*words):
        process = multiprocessing.get_context("fork").Process(target=lambda: sys.exit(run_all.main(words)))
        process.start()
        started.append(process)
        return process

    yield call
    for process in started:
        process.kill()


def wait_until(true):
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def calls(runs):
    return sorted((runs / "calls").read_text().splitlines())


def test_side_by_side(runs, monkeypatch, capsys):
    cores = running.devices.available_cores()[:2]
    monkeypatch.setattr(running.devices, "available_cores", lambda: cores)
    monkeypatch.setenv("JOBS", "2")
    monkeypatch.setattr(run_all, "SAY_AGAIN", 0.2)
    assert run_all.main([]) == 1
    text = capsys.readouterr().out
    assert "experiments: 4, to do: 3, " in text and "of 20, " in text and "tiny long: done in 0" in text
    assert "without celeba: no faces" in text and "without celeba: tiny faces" in text
    failed = "FAILED tiny broken: train.py ended with exit code 1: KeyError: 'Z' (see "
    assert text.count(failed) == 2 and text.index(failed) < text.index("2 of 4 experiments") < text.rindex(failed)
    assert calls(runs) == ALL_CALLS
    assert (runs / "RESULTS.md").read_text() == "Results: long short"
    pinned = hasattr(os, "sched_setaffinity")  # not on macOS
    assert (runs / "tiny" / "long.log").read_text() == ("cores 1, threads 1\n" if pinned else "")
    assert json.loads((runs / "tiny" / "short" / "memory.json").read_text())["peak_bytes"] > 1e6
    assert not (runs / "tiny" / "broken" / "memory.json").exists()  # it would have taken more
    assert run_all.main([]) == 1
    assert "experiments: 4, to do: 1, " in capsys.readouterr().out
    assert calls(runs) == ALL_CALLS


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_all(runs, start, capfd, number):
    ours = signal.signal(number, signal.SIG_DFL)  # nohup ignores SIGHUP, a shell's background job SIGINT
    process = start("long")
    signal.signal(number, ours)
    wait_until(lambda: running.last_step(runs / "tiny" / "long") > 2)
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == 128 + number
    text = capfd.readouterr().out
    assert text.endswith("stopped; run the same command to continue\n") and "FAILED" not in text
    assert 2 < checkpoint.read_state(runs / "tiny" / "long").step < 20
    assert run_all.main(["long"]) == 0
    assert "going on from step" in (runs / "tiny" / "long.log").read_text()
    assert calls(runs) == ["test long", "train long"]


def test_a_test_py_that_cannot_be_started_does_not_stop_the_others(runs, monkeypatch, capsys):
    start, scripts = running.psutil.Popen, []

    def refuse_one(command, **options):
        scripts.append((command[-1], command[-2].name))
        if scripts[-1] == ("short", "test.py"):
            raise OSError(12, "no memory")
        return start(command, **options)

    monkeypatch.setattr(running.psutil, "Popen", refuse_one)
    assert run_all.main(["tiny"]) == 1
    failed = "FAILED tiny short: cannot read or write a file (Cannot allocate memory): mend that"
    assert capsys.readouterr().out.count(failed) == 2
    assert calls(runs) == ["test long", "train long", "train short"]
    assert not (runs / "tiny" / "short" / "memory.json").exists()  # its test.py would have taken more


@pytest.mark.parametrize(("code", "failed"), [(143, []), (-signal.SIGTERM, []), (2, ["FAILED tiny broken: code 2"])])
def test_a_row_that_fails_as_all_are_stopped_is_named(code, failed):
    row = SimpleNamespace(
        look=lambda: code, close=lambda done: None, failure=lambda code: f"code {code}", calls=[], place=None,
        job=SimpleNamespace(title="tiny broken"),
    )  # fmt: skip
    rows = run_all.RunAll([], [], None)
    rows.running = [row]
    rows.look(row, stopping=True)
    assert rows.failed == failed and not rows.running


def test_without_any_data(runs, monkeypatch):
    for words, data_dir, text in ((["faces"], "", "no faces"), ([], str(runs / "nowhere"), "DATA_DIR=")):
        monkeypatch.setenv("DATA_DIR", data_dir)
        with pytest.raises(UserError, match=text):
            run_all.main(words)


@pytest.mark.parametrize("lost", [True, False])
def test_two_share_the_rows_and_one_is_killed(runs, start, monkeypatch, capfd, lost):
    """Either a machine is lost, or only run_all, whose script runs on to its end."""
    monkeypatch.setenv("JOBS", "1")
    monkeypatch.setenv("PAUSE", "0.3")
    first = start()
    wait_until(lambda: running.last_step(runs / "tiny" / "short") > 1)
    monkeypatch.setenv("PAUSE", "0.05")
    second = start()
    wait_until(lambda: running.last_step(runs / "tiny" / "long") > 1)
    scripts = psutil.Process(first.pid).children()
    first.kill()
    for script in scripts if lost else []:
        script.kill()
    second.join(30)
    assert second.exitcode == 1  # because of the broken row
    assert "tiny short: left for now, as another process is at work in" in capfd.readouterr().out
    assert calls(runs) == ALL_CALLS


def test_a_row_that_is_trained_by_hand_waits(runs, capsys):
    held = contextlib.ExitStack()
    held.enter_context(experiment.hold_folder(plan.plan(["short"])[0][0].experiment))
    threading.Timer(0.3, held.close).start()
    assert run_all.main(["short"]) == 0
    assert "tiny short: left for now" in capsys.readouterr().out


def test_the_weights_are_those_of_train_py(tmp_path, monkeypatch):
    """They are equal bit for bit, with the same number of threads: here, one."""
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "test.py").touch()  # the real one takes a minute
    (tmp_path / "vae" / "train.py").symlink_to(ROOT / "vae" / "train.py")
    monkeypatch.setattr(plan, "ROOT", tmp_path)
    monkeypatch.setenv("STEPS", "20")
    by_hand = [sys.executable, ROOT / "vae" / "train.py", "mnist_z3"]
    place = running.Place("a core", running.threads(1), running.devices.available_cores()[:1])
    monkeypatch.setattr(run_all, "places", lambda todo: [place])
    environment = os.environ | place.variables | {"RUNS_DIR": str(tmp_path / "by hand")}
    with subprocess.Popen(by_hand, env=environment, stdout=subprocess.DEVNULL):
        monkeypatch.setenv("RUNS_DIR", str(tmp_path / "runs"))
        assert run_all.main(["mnist_z3"]) == 0
    folders = [tmp_path / name / "vae" / "mnist_z3-steps20" for name in ("by hand", "runs")]
    first, second = (checkpoint.read_state(folder) for folder in folders)
    assert first.step == second.step == 20
    assert first.checksum == second.checksum is not None


def test_what_cannot_be_written_does_not_stop_the_others(runs, capsys):
    (runs / "tiny").mkdir()
    (runs / "tiny" / "long").touch()  # no folder
    (runs / "RESULTS.md").mkdir()  # no file
    assert run_all.main(["tiny"]) == 1
    text = capsys.readouterr().out
    assert text.count("FAILED tiny long: ") == 2 and str(runs / "tiny" / "long") in text
    assert text.count("*** RESULTS.md is not written: ") == 2 and "1 of 4 experiments" in text
    assert calls(runs) == ["test short", "train short"]


@pytest.mark.parametrize("name", ["file", "/proc"])
def test_a_runs_dir_that_cannot_be_written_is_named(runs, monkeypatch, name):
    (runs / "file").touch()
    monkeypatch.setenv("RUNS_DIR", str(runs / name))
    with pytest.raises(UserError, match=f"cannot write to .*{name} "):
        run_all.main(["short"])


def test_a_folder_that_cannot_be_read_is_left_to_train_py(runs, monkeypatch):
    def refuse(folder):
        raise PermissionError(folder)

    monkeypatch.setattr(checkpoint, "read_state", refuse)
    assert plan.plan(["short"])[0][0].calls == ["train.py"]


def test_a_rehearsals_page_is_its_own(runs, monkeypatch):
    steps = {"short": 10, "short-steps5": 10, "long-seed1-steps5": 20, "long-steps10": 20}
    for name, planned in steps.items():
        (runs / "tiny" / name).mkdir(parents=True)
        (runs / "tiny" / name / "metrics.json").write_text(json.dumps({"steps_planned": planned}))
    run_all.write_page()
    monkeypatch.setenv("STEPS", "5")
    run_all.write_page()
    assert (runs / "RESULTS-steps5.md").read_text() == "Rehearsal of 5 steps: long-seed1-steps5 short-steps5"
    monkeypatch.setenv("STEPS", "10")  # the default of one row, another number for the other
    run_all.write_page()
    assert (runs / "RESULTS-steps10.md").read_text() == "Rehearsal of 10 steps: long-steps10 short"
    assert (runs / "RESULTS.md").read_text() == "Results: short"


def test_a_terminal_shows_what_runs(runs, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert run_all.main(["short"]) == 0
    text = capsys.readouterr().out
    assert "\rtiny short" in text and "of 10, " in text and " a second, 00:0" in text


def test_called_through_a_symbolic_link(tmp_path):
    (tmp_path / "link").symlink_to(ROOT / "run_all.sh")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    called = subprocess.run([tmp_path / "link", "stylegan"], cwd=tmp_path, env=environment, capture_output=True)
    assert called.returncode == 2 and b"error: no experiment matches stylegan: choose from acgan, " in called.stderr
