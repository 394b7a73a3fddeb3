"""Kills train.py and test.py at random moments: `python benchmarks/kills.py [kills of each] [model ...]`.

Every second kill comes while a file is being written. After each kill, the run's files must be either complete or
absent. When a run finishes, its weights, log and metrics must equal those of an uninterrupted run, bit for bit.
"""

import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / part) for part in ("", "tests")]
from scripts import MODULES, arrays, start

from common import checkpoint

SIGNALS = signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT
STEPS = "405"


def whole(folder):
    """Reads every file in a run's folder except drafts and TensorBoard's, which only grow."""
    for path in folder.rglob("[!~]*"):
        if path.suffix in (".png", ".gif"):
            with Image.open(path) as image:
                image.load()
        elif path.suffix == ".keras":
            with zipfile.ZipFile(path) as file:
                assert file.testzip() is None, path
        elif path.suffix == ".h5":
            assert checkpoint.read_state(folder).step and all(np.isfinite(x).all() for x in arrays(path).values()), path
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".csv":
            steps = [int(row["step"]) for row in checkpoint.read_log(folder)]
            assert steps == sorted({*steps}), path


def call(folder, *words):
    """Runs a script to the end; returns the seconds it took."""
    begun = time.monotonic()
    process = start(folder, *words, STEPS=STEPS)
    out, err = process.communicate()
    assert (process.returncode, err) == (0, ""), (words, out, err)
    return time.monotonic() - begun


def step(folder):
    """Returns the step of the checkpoint of the only run in `folder`, or 0 if there is none."""
    states = [checkpoint.read_state(path) for path in (folder / "runs").glob("*/*")]
    return states[0].step if states and states[0] else 0


def kill(folder, words, moment, writing, number):
    """Sends a signal after `moment` seconds or, if `writing`, at the next write after that; returns whether in time."""
    before = step(folder)
    process = start(folder, *words, STEPS=STEPS)
    time.sleep(moment)
    while writing and process.poll() is None and not any(folder.rglob("~*")):
        time.sleep(0.0005)
    in_time = process.poll() is None
    process.send_signal(number)
    try:
        out, err = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        raise SystemExit(f"{words} does not end on signal {number}") from None
    assert step(folder) >= before, f"{words} went from step {before} to {step(folder)}"
    if "stopping after this step" in out:
        assert "Traceback" not in err and process.returncode in (0, 128 + number), (out, err)
        if process.returncode:
            assert step(folder) > before, (before, out)  # the work done until then is kept
    for draft in folder.rglob("~*"):
        draft.unlink()  # so that the next one is noticed
    return in_time


def same(script, ours, theirs):
    """Fails unless two finished runs hold the same weights and the same log."""
    a, b = (arrays(folder / checkpoint.CHECKPOINT) for folder in (ours, theirs))
    assert a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a), script
    assert (ours / "log.csv").read_text() == (theirs / "log.csv").read_text(), script


def main(kills, scripts):
    # A shell's background job ignores SIGINT, and so would the processes that we start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rng, tried, finished = random.Random(0), Counter(), 0
    for script in scripts:
        with tempfile.TemporaryDirectory() as name:
            parents = [Path(name) / part for part in ("undisturbed", "disturbed")]
            for parent in parents:
                parent.mkdir()
            theirs, ours = (parent / "runs" / script for parent in parents)
            for file in ("train.py", "test.py"):
                words, count = [f"{script}/{file}"], 0
                seconds = call(parents[0], *words)
                while count < kills:
                    if file == "train.py" and step(parents[1]) == int(STEPS):  # it finished despite the kills
                        same(script, *(next(parent.iterdir()) for parent in (ours, theirs)))
                        shutil.rmtree(ours)
                        finished += 1
                    number = rng.choice(SIGNALS)
                    # (The second half of the time has more to lose; in the first, TensorFlow is imported.)
                    moment = seconds * rng.triangular(0, 1, 0.8)
                    if kill(parents[1], words, moment, count % 2, number):
                        tried[script, file, number.name] += 1
                        count += 1
                    for folder in ours.glob("*"):
                        whole(folder)
                call(parents[1], *words)
            folders = [next(parent.iterdir()) for parent in (ours, theirs)]
            same(script, *folders)
            finished += 1
            numbers = [json.loads((folder / "metrics.json").read_text()) | {"seconds": 0} for folder in folders]
            assert numbers[0] == numbers[1], script
            files = [{path.relative_to(folder) for path in folder.rglob("*.*")
                      if "tensorboard" not in path.parts} for folder in folders]  # fmt: skip
            assert files[0] == files[1], script
        print({" ".join(key): n for key, n in tried.items() if key[0] == script}, flush=True)
    print(f"{tried.total()} kills; nothing was lost, and {finished} runs ended as if uninterrupted")


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 10, sys.argv[2:] or MODULES)
