"""Trains and tests all experiments, in parallel: ./run_all.sh [word ...].

Takes the experiments that match all words, each the model, the experiment or a part of its name ("vae", "mnist_z10",
"mnist"); without words, all. For each it runs what is missing. You can stop and rerun it at any time, also on several
machines that share RUNS_DIR. An experiment that fails does not stop the others. One runs per GPU; without GPUs, one per
core while memory lasts; or as many as JOBS says. With JOBS=1, each has all cores. DATA_DIR, RUNS_DIR, SEED and STEPS
work as in the scripts. What a script prints goes to RUNS_DIR/<model>/<experiment>.log, the results to
RUNS_DIR/RESULTS.md, or RESULTS-steps<STEPS>.md. common/plan.py decides what there is to do, common/running.py runs an
experiment.
"""

import contextlib
import math
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import psutil
import tensorflow as tf
from tqdm import tqdm

from common import experiment, report, usage
from common.experiment import steps_suffix
from common.files import UserError, bar, explain, one_line_errors, read_json, say
from common.plan import Job, missing, plan, show
from common.running import Place, Running, hold, places

STOPPED = {130, 143, -signal.SIGINT, -signal.SIGTERM}  # exit codes of a script that was told to stop
TICK, LOOK_AGAIN, SAY_AGAIN = 0.5, 5, 60  # seconds between checks of running rows, of a row in use, and between lines


class Display:
    """Shows a line per running row at the bottom of the terminal, refreshed in place."""

    def __init__(self, count: int):
        self.bars = []
        if sys.stdout.isatty():
            self.bars = [bar(position=number, bar_format="{desc}", leave=False) for number in range(count)]

    def refresh(self, running: list[Running]) -> None:
        """Shows what is running; without a terminal, prints a line per row once a minute."""
        width = shutil.get_terminal_size().columns - 1
        with contextlib.suppress(OSError):
            for bar, row in zip_longest(self.bars, running if self.bars else []):
                bar.set_description_str(row.status()[:width] if row else "")
        for row in running:
            if not self.bars and time.monotonic() - row.said > SAY_AGAIN:
                row.said = time.monotonic()
                say(row.status())

    def close(self) -> None:
        with contextlib.suppress(OSError):
            for bar in self.bars:
                bar.close()


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Yields a list to which the numbers of incoming stop signals are added."""
    came, handlers = [], {}
    for number in {signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}:  # Windows has no SIGHUP
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup does with SIGHUP
            handlers[number] = signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield came
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


class RunAll:
    """Runs the jobs, and tracks which are waiting, are running or have failed."""

    def __init__(self, todo: list[Job], places: list[Place], display: Display):
        # First those of unknown duration, then the longest.
        self.waiting = sorted(todo, key=lambda job: math.inf if job.seconds is None else job.seconds, reverse=True)
        self.free, self.display = [*reversed(places)], display
        self.running, self.failed, self.in_use = [], [], {}

    def run(self) -> int | None:
        """Runs all jobs, or until a signal, whose number it then returns."""
        heard = 0
        with stop_signals() as came:
            try:
                while self.running or (self.waiting and not came):
                    for number in came[heard:]:
                        heard += 1
                        self.stop(number)
                        if heard == 1:
                            say("stopping each training after its current step; repeat to stop at once")
                    if not came:
                        self.start()
                    self.display.refresh(self.running)
                    time.sleep(TICK)
                    for row in [*self.running]:
                        self.look(row, stopping=bool(came))
            finally:
                self.stop(signal.SIGTERM)  # whatever an error left running
        return came[0] if came else None

    def stop(self, number: int) -> None:
        if os.name == "nt" and number == signal.SIGINT:  # the console has already told the rows
            return
        for row in self.running:
            with contextlib.suppress(psutil.Error):  # it has just ended
                row.process.send_signal(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)

    def start(self) -> None:
        """Starts waiting rows that have a place, enough memory and no other process working on them."""
        for job in [*self.waiting]:
            again = time.monotonic() - self.in_use.get(job.title, -math.inf) > LOOK_AGAIN
            if self.free and again and self.fits(job):
                try:
                    self.take(job)
                except (OSError, UserError) as error:  # such as another user's folder; must not end the other rows
                    self.waiting.remove(job)
                    self.fail(job, explain(error))

    def fits(self, job: Job) -> bool:
        """Returns whether there is memory for `job`, besides what the running rows may still take."""
        if not self.running or os.environ.get("JOBS"):
            return True
        growth = sum(max(0, row.job.memory - row.memory) for row in self.running)
        return psutil.virtual_memory().available > growth + job.memory

    def take(self, job: Job) -> None:
        """Starts a row, unless another process is working on it or has done it."""
        each = job.experiment
        lock = hold(each)
        if lock is None:
            if job.title not in self.in_use:
                say(f"{job.title}: left for now, as another process is at work in {each.folder}")
            self.in_use[job.title] = time.monotonic()
            return
        calls = missing(each, job.identity)
        if not calls:
            lock.close()
            self.waiting.remove(job)
            say(f"{job.title}: done by another process")
            return
        row = Running(job, calls, self.free[-1], lock)
        self.waiting.remove(job)
        self.free.pop()
        self.running.append(row)
        say(f"{job.title}: {' and '.join([row.file, *calls])} on {row.place.name}, log {row.log}")

    def look(self, row: Running, stopping: bool) -> None:
        """If a row's script has ended, starts its next script or ends the row."""
        code, why = row.look(), None
        if code is None:
            return
        if not code and row.calls and not stopping:
            try:
                row.call()
                return
            except OSError as error:  # such as no memory for a process; must not end the other rows
                why = explain(error)
        elif code and not (stopping and code in STOPPED):
            why = row.failure(code)
        done = not (code or why or row.calls)
        row.close(done)
        self.running.remove(row)
        self.free.append(row.place)
        if why:
            self.fail(row.job, why)
        elif done:
            took = tqdm.format_interval(time.monotonic() - row.begun)
            say(f"{row.job.title}: done in {took}; still waiting: {len(self.waiting)}")
            update_page()

    def fail(self, job: Job, why: str) -> None:
        self.failed.append(f"FAILED {job.title}: {why}")
        say(self.failed[-1])


def update_page() -> None:
    """Calls `write_page`, but prints an error instead of raising it, so that the rows go on."""
    try:
        write_page()
    except (OSError, LookupError, UserError) as error:
        say(f"*** {page_path().name} is not written: {error!r}")


def page_path() -> Path:
    """Returns the path of the page of results; if STEPS is set, a page of its own."""
    steps = os.environ.get("STEPS")
    return experiment.runs_dir() / (f"RESULTS-steps{steps}.md" if steps else "RESULTS.md")


def write_page() -> None:
    """Writes the page of all measured runs in RUNS_DIR; if STEPS is set, only of those with that many steps."""
    paths, steps = sorted(experiment.runs_dir().glob("*/*/metrics.json")), os.environ.get("STEPS")
    if steps:
        chosen, title = [path for path in paths if asked_steps(path) == int(steps)], f"Rehearsal of {steps} steps"
    else:
        chosen, title = [path for path in paths if not steps_suffix(path.parent)], "Results"
    report.write_page(page_path(), chosen, title)


def asked_steps(path: Path) -> int | None:
    """Returns the number of steps that a run, whose metrics.json this is, was to do; None if the file is damaged."""
    suffix = steps_suffix(path.parent)
    return int(suffix.removeprefix("-steps")) if suffix else read_json(path).get("steps_planned")


def main(words: list[str]) -> int:
    """Runs the rows that match `words`, or prints the help; returns the exit code."""
    if usage.HELP & {*words}:
        say(f"{__doc__}\n{usage.variables()}")
        return 0
    usage.warn_of_variables()
    experiment.data_dir()  # raises if there is no such folder
    experiment.number("JOBS", 1, 1)  # raises if it is not a number
    runs_dir = experiment.runs_dir()
    with experiment.writing_to(runs_dir):
        runs_dir.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=runs_dir).close()
    jobs, absent = plan(words)
    if not any(job.identity for job in jobs):
        raise next(iter(absent.values()))
    todo = [job for job in jobs if job.calls]
    chosen = places(todo)
    show(jobs, absent, len(chosen))
    display = Display(min(len(chosen), len(todo)))
    rows = RunAll(todo, chosen, display)
    try:
        stopped = rows.run()
    finally:
        display.close()
    update_page()
    done = [job for job in jobs if job.identity and not missing(job.experiment, job.identity)]
    say(f"{len(done)} of {len(jobs)} experiments are trained and tested; see {page_path()}")
    for dataset in absent:
        say(f"without {dataset}: {', '.join(job.title for job in jobs if job.experiment.row['dataset'] == dataset)}")
    for line in rows.failed:
        say(line)
    if stopped:
        say("stopped; run the same command to continue")
        return 128 + stopped
    return 1 if rows.failed else 0


if __name__ == "__main__":
    tf.config.set_visible_devices([], "GPU")  # whose memory is for the scripts
    with one_line_errors():
        sys.exit(main(sys.argv[1:]))
