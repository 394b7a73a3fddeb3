"""How ./run_all.sh runs a row: its place, its lock and its status."""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, NamedTuple

import portalocker
import psutil
from tqdm import tqdm

from common import devices, experiment
from common.experiment import Experiment
from common.files import atomic_write, read_json
from common.plan import MEMORY, Job


class Place(NamedTuple):
    """Where a row runs."""

    name: str
    variables: dict[str, str]
    cores: list[int]  # empty for all


def places(todo: list[Job]) -> list[Place]:
    """Returns a place per GPU or, without GPUs, per core while memory lasts; or as many as JOBS says.

    There are no more places than rows. Without GPUs, they share all cores.
    """
    cores, gpus = devices.available_cores(), available_gpus()
    count = len(gpus or cores)
    if todo:
        memory = statistics.mean(job.memory for job in todo)
        count = min(count, int(psutil.virtual_memory().available / memory))
    count = min(experiment.number("JOBS", max(count, 1), 1), max(len(todo), 1))
    if gpus:
        shared = {"TF_FORCE_GPU_ALLOW_GROWTH": "true"} if count > len(gpus) else {}
        chosen = [gpus[number % len(gpus)] for number in range(count)]
        return [Place(f"GPU {gpu}", {"CUDA_VISIBLE_DEVICES": gpu, **shared}, []) for gpu in chosen]
    if count == 1:
        return [Place("all cores", {}, [])]
    shares = [cores[number % len(cores) :: count] for number in range(count)]
    return [Place(f"core {', '.join(map(str, share))}", threads(len(share)), share) for share in shares]


def available_gpus() -> list[str]:
    """Returns the names of the GPUs in CUDA_VISIBLE_DEVICES."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else map(str, range(len(devices.GPUS)))
    return [*names][: len(devices.GPUS)]


def threads(count: int) -> dict[str, str]:
    """Returns environment variables that make TensorFlow compute with `count` threads."""
    return dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"), str(count))


def hold(each: Experiment) -> IO | None:
    """Locks a row for train.py and test.py until the returned file is closed; None if another process has it."""
    each.folder.mkdir(parents=True, exist_ok=True)
    lock = open(each.folder / ".row", "w")
    try:
        portalocker.lock(lock, portalocker.LOCK_EX | portalocker.LOCK_NB)
    except portalocker.AlreadyLocked:
        lock.close()
        return None
    except portalocker.LockException:
        pass  # files can't be locked there; hold_folder warns about it
    try:
        with experiment.hold_folder(each):  # no train.py started by hand is at work
            return lock
    except experiment.InUse:
        lock.close()
        return None


class Running:
    """A running row: its train.py, then its test.py."""

    def __init__(self, job: Job, calls: list[str], place: Place, lock: IO):
        self.job, self.each, self.calls, self.place, self.lock = job, job.experiment, calls, place, lock
        self.log = self.each.folder.with_name(f"{self.each.folder.name}.log")
        self.begun = self.said = time.monotonic()
        self.memory = self.peak = 0  # bytes
        self.call()

    def call(self) -> None:
        """Starts the next script."""
        self.file = self.calls.pop(0)
        options = {}
        if os.name == "posix":
            # In its own session, the terminal's Ctrl-C does not reach it. It shares the lock, which therefore lasts as
            # long as it works, even if this process is killed.
            options = {"start_new_session": True, "pass_fds": [self.lock.fileno()]}
        with open(self.log, "ab") as log:
            self.process = psutil.Popen(
                [sys.executable, "-u", self.each.script / self.file, self.each.name],
                env=os.environ | self.place.variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                **options,
            )  # fmt: skip
        if self.place.cores and hasattr(os, "sched_setaffinity"):
            with contextlib.suppress(OSError):  # it has just ended, or may no longer use them
                os.sched_setaffinity(self.process.pid, self.place.cores)
        self.first = self.last = time.monotonic(), 0  # time and step between which the pace is measured

    def look(self) -> int | None:
        """Updates the script's step and memory; returns its exit code, or None while it runs."""
        step = last_step(self.each.folder)
        if step != self.last[1]:
            self.last = time.monotonic(), step
        if step <= self.first[1] or self.first[1] == 0:
            self.first = time.monotonic(), step
        with contextlib.suppress(psutil.Error):  # it has just ended
            self.memory = self.process.memory_info().rss
            self.peak = max(self.peak, self.memory)
        return self.process.poll()

    def status(self) -> str:
        """Returns a line with the step, the pace and the time left."""
        if self.file == "test.py":
            return f"{self.job.title:26} testing"
        (then, first), (now, step) = self.first, self.last
        text = f"{self.job.title:26} step {step:,} of {self.each.steps:,}"
        if step > first:
            pace = (step - first) / (now - then)
            text += f", {pace:.3g} a second, {tqdm.format_interval((self.each.steps - step) / pace)} left"
        return text

    def failure(self, code: int) -> str:
        """Returns a line with the script that failed, its exit code and its last line of output."""
        last = next((line for line in reversed(tail(self.log)) if line.strip()), "")
        return f"{self.file} ended with exit code {code}: {last} (see {self.log})"

    def close(self, done: bool) -> None:
        """Records the row's peak memory, unless it ended early and may have taken more; unlocks the row."""
        path = self.each.folder / "memory.json"
        peak = max(self.peak, read_json(path).get("peak_bytes", 0))
        if done or peak > MEMORY:
            with contextlib.suppress(OSError), atomic_write(path) as draft:
                draft.write_text(json.dumps({"peak_bytes": peak}) + "\n")
        self.lock.close()


def last_step(folder: Path) -> int:
    """Returns the step of the last complete line of log.csv, or 0 if there is none yet."""
    try:
        return int(tail(folder / "log.csv")[-2].split(",")[0])
    except (ValueError, IndexError):
        return 0


def tail(path: Path) -> list[str]:
    """Returns the last lines of a file, the very last one empty or incomplete; an empty list if there is no file."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
        return file.read().decode(errors="replace").split("\n")
    return []
