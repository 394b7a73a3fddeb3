"""Trains and tests the rows of all scripts, one after the other: ./run_all.sh [word ...]

Takes the rows that all the words name, each word the script, the row or a part of its name ("vae", "mnist_z10",
"mnist"; without a word all rows), and of these does what is missing: it can be stopped and called again at any time. A
row that fails does not keep the others. DATA_DIR, RUNS_DIR, SEED and STEPS are those of the scripts; with STEPS it is a
rehearsal, whose results and page stay in RUNS_DIR.
"""

from common import data, results, run  # before TensorFlow, whose start-up messages it keeps from the terminal

# isort: split
import contextlib
import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf

import page

ROOT = Path(__file__).resolve().parent
TESTING = 90  # seconds of a test.py, about


class Job(NamedTuple):
    run: run.Run
    source: str | None  # what the images are called; None where they are not there
    calls: list  # of train.py and test.py, what is missing
    seconds: float | None  # that it will take; None if nobody knows


def plan(words):
    """The jobs of the rows that all `words` name; why datasets are not there, by name."""
    chosen, known = [], set()
    for script in sorted(path.parent for path in ROOT.glob("*/train.py")):
        runs = import_module(f"{script.name}.train").RUNS
        called = {name: {script.name, name, *name.split("_")} for name in runs}
        chosen += [run.named(script, runs, name) for name in runs if {*words} <= called[name]]
        known = known.union(*called.values())
    if not chosen:
        wrong = [word for word in words if word not in known] or words
        raise data.UserError(
            f"no row is called {' and '.join(wrong)}: words are of {', '.join(sorted(known))}; without one, "
            "./run_all.sh takes all rows"
        )
    sources, why = {}, {}
    for dataset in sorted({each.row["dataset"] for each in chosen}):
        try:
            sources[dataset] = data.load(dataset).source
        except data.UserError as error:
            why[dataset] = error
    jobs = []
    for each in chosen:
        source = sources.get(each.row["dataset"])
        calls = missing(each, source) if source else []
        left = seconds_left(each) if "train.py" in calls else 0.0
        jobs.append(Job(each, source, calls, None if left is None else left + TESTING * ("test.py" in calls)))
    return jobs, why


def missing(each, source):
    """What of a run is to be called: train.py and test.py, or test.py, or none."""
    try:
        state = run.begin(each, source)
    except data.UserError:
        return ["train.py"]  # which says it
    if state.step < each.steps:
        return ["train.py", "test.py"]
    metrics = results.read(each.folder / "metrics.json") or {}
    measured = metrics.get("steps"), metrics.get("dataset"), metrics.get("measures")
    return [] if measured == (state.step, source, run.MEASURES) else ["test.py"]


def seconds_left(each):
    """An estimate of the training that is left, by the run's own pace or that in results/; None where neither is."""
    try:
        state = run.read_state(each.folder)
        if state and state.step:
            return (each.steps - state.step) * state.seconds / state.step
    except data.UserError:
        return None
    told = results.read(ROOT / "results" / each.script.name / each.name / "metrics.json")
    return each.steps * told["seconds"] / told["steps"] if told and told["steps"] else None


def about(seconds):
    return f"{round(seconds / 3600):,} hours" if seconds > 36_000 else f"{round(seconds / 60)} minutes"


def show(jobs, why):
    """What will be done."""
    todo = [job for job in jobs if job.calls]
    unknown = sum(job.seconds is None for job in todo)
    print(f"rows: {len(jobs)}, to do: {len(todo)}, about {about(sum(job.seconds or 0 for job in todo))} by the pace "
          f"of results/{f', without {unknown} rows of unknown pace' if unknown else ''}")  # fmt: skip
    for job in jobs:
        what = " and ".join(job.calls) or ("done" if job.source else f"no {job.run.row['dataset']}")
        if job.seconds:
            what += f", about {about(job.seconds)}"
        print(f"  {job.run.title:26} {job.run.steps:>8,} steps  {what}")
    for dataset, error in why.items():
        print(f"  without {dataset}: {error}")
    print(flush=True)


class Caller:
    """Calls scripts one after the other; what stops it stops the one that runs, as it is stopped by itself."""

    def __init__(self):
        self.process = self.stopped_by = None
        self.handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        for number, handler in self.handlers.items():
            if handler is not signal.SIG_IGN:  # nohup's SIGHUP
                signal.signal(number, self.stop)

    def close(self):
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def stop(self, number, frame):
        self.stopped_by = number
        if self.process:
            self.process.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)

    def wait(self, each):
        """Until no other train.py is at work in the run's folder, as after a run_all.sh that was killed."""
        said = False
        while not self.stopped_by:
            try:
                with run.own_folder(each):
                    return
            except run.InUse:
                if not said:
                    print(f"waiting for another train.py, which is at work in {each.folder}", flush=True)
                said = True
                time.sleep(1)
            except data.UserError:
                return  # train.py says it

    def __call__(self, each, file, log):
        """Shows and logs what train.py or test.py prints; returns its exit code and its last line."""
        last = ""
        # In a session of its own the terminal's Ctrl-C does not reach it twice.
        self.process = subprocess.Popen(
            [sys.executable, "-u", each.script / file, each.name],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
        with self.process:
            if self.stopped_by:  # before it was there
                self.process.terminate()
            for line in self.process.stdout:
                print(line, end="", flush=True)
                with contextlib.suppress(OSError):  # a full disk, which the script itself survives
                    log.write(line.encode())
                last = line.strip() or last
        return self.process.returncode, last


def main(words):
    """Returns the exit code."""
    tf.config.set_visible_devices([], "GPU")  # whose memory is the scripts', one after the other
    jobs, why = plan(words)
    show(jobs, why)
    todo, failed = [job for job in jobs if job.calls], []
    folder, steps = ROOT, os.environ.get("STEPS")
    if steps:
        folder = jobs[0].run.folder.parent.parent / f"rehearsal-steps{steps}"
    begun, call = time.monotonic(), Caller()
    for number, job in enumerate(todo, 1):
        left = sum(later.seconds or 0 for later in todo[number - 1 :])
        print(f"=== {number} of {len(todo)}: {job.run.title}; {about(time.monotonic() - begun)} so far, about "
              f"{about(left)} to go", flush=True)  # fmt: skip
        path = job.run.folder.parent / f"{job.run.folder.name}.log"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise data.UserError(
                f"cannot write to {path.parent} ({error.strerror}): set RUNS_DIR to a folder that can be written"
            ) from error
        call.wait(job.run)
        with open(path, "ab", buffering=0) as log:
            for file in job.calls:
                if call.stopped_by:
                    break
                code, last = call(job.run, file, log)
                if code and not call.stopped_by:
                    failed.append(f"{job.run.title}: {file} ended with exit code {code}: {last} (see {path})")
                    break
        if call.stopped_by:
            break
        if not code:  # kept at once, whatever becomes of the others
            results.collect([job.run.folder], folder / "results", rehearsal=bool(steps))
    call.close()
    done = [job for job in jobs if job.source and not missing(job.run, job.source)]
    before = [job.run.folder for job in jobs if job.source and not job.calls]
    results.collect(before, folder / "results", rehearsal=bool(steps))
    page.write(folder, f"Rehearsal of {steps} steps: what it says means nothing" if steps else "Results")
    print(f"=== {len(done)} of {len(jobs)} rows are trained and tested; the page is {folder / 'RESULTS.md'}")
    for dataset in why:
        print(f"without {dataset}: {', '.join(job.run.title for job in jobs if job.run.row['dataset'] == dataset)}")
    for line in failed:
        print(f"FAILED {line}")
    if call.stopped_by:
        print("stopped; the same command goes on")
        return 128 + call.stopped_by
    return 1 if failed else 0


if __name__ == "__main__":
    with run.one_line_errors():
        sys.exit(main(sys.argv[1:]))
