"""How ./run_all.sh runs a row: in which place, under which lock, with what to be seen of it."""

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
from common.files import atomic_write
from common.plan import Job, read_json


class Place(NamedTuple):
    """Where a row runs."""

    name: str
    variables: dict[str, str]
    cores: list[int]  # empty for all


def places(todo: list[Job]) -> list[Place]:
    """One place per GPU, without GPUs per core, but no more than there are rows and memory; or as many as JOBS says.

    Without GPUs the places share all cores among them.
    """
    cores, gpus = devices.available_cores(), available_gpus()
    count = len(gpus or cores)
    if todo:
        memory = statistics.mean(job.memory for job in todo)
        count = min(count, len(todo), int(psutil.virtual_memory().available / memory))
    count = experiment.number("JOBS", max(count, 1), 1)
    if gpus:
        shared = {"TF_FORCE_GPU_ALLOW_GROWTH": "true"} if count > len(gpus) else {}
        chosen = [gpus[number % len(gpus)] for number in range(count)]
        return [Place(f"GPU {gpu}", {"CUDA_VISIBLE_DEVICES": gpu, **shared}, []) for gpu in chosen]
    if count == 1:
        return [Place("all cores", {}, [])]
    shares = [cores[number % len(cores) :: count] for number in range(count)]
    return [Place(f"core {', '.join(map(str, share))}", threads(len(share)), share) for share in shares]


def available_gpus() -> list[str]:
    """The GPUs by their names in CUDA_VISIBLE_DEVICES."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else map(str, range(len(devices.GPUS)))
    return [*names][: len(devices.GPUS)]


def threads(count: int) -> dict[str, str]:
    """The environment of a TensorFlow that computes with `count` threads."""
    return dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"), str(count))


def hold(each: Experiment) -> IO | None:
    """Takes a row for train.py and test.py, until the file that it returns is closed; None where another has it."""
    each.folder.mkdir(parents=True, exist_ok=True)
    lock = open(each.folder / ".row", "w")
    try:
        portalocker.lock(lock, portalocker.LOCK_EX | portalocker.LOCK_NB)
    except portalocker.AlreadyLocked:
        lock.close()
        return None
    except portalocker.LockException:
        pass  # no file can be locked there, which hold_folder says
    try:
        with experiment.hold_folder(each):  # no train.py called by hand is at work
            return lock
    except experiment.InUse:
        lock.close()
        return None


class Running:
    """A row at work: its train.py, then its test.py."""

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
            # In a session of its own the terminal's Ctrl-C does not reach it. It shares the lock, which so lasts as
            # long as it works, even if this process is killed.
            options = {"start_new_session": True, "pass_fds": [self.lock.fileno()]}
        with open(self.log, "ab") as log:
            self.process = psutil.Popen(
                [sys.executable, "-u", self.each.script / self.file, self.each.name],
                env=os.environ | self.place.variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                **options,
            )  # fmt: skip
        if self.place.cores and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(self.process.pid, self.place.cores)
        self.first = self.last = time.monotonic(), 0  # time and step between which the pace is counted

    def look(self) -> int | None:
        """Looks at the script's step and memory; returns its exit code when it has ended."""
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
        """A line: the step, its pace and the time left."""
        if self.file == "test.py":
            return f"{self.job.title:26} testing"
        (then, first), (now, step) = self.first, self.last
        text = f"{self.job.title:26} step {step:,} of {self.each.steps:,}"
        if step > first:
            pace = (step - first) / (now - then)
            text += f", {pace:.3g} a second, {tqdm.format_interval((self.each.steps - step) / pace)} left"
        return text

    def failure(self, code: int) -> str:
        """A line: which script ended with `code`, and the last that it said."""
        last = next((line for line in reversed(tail(self.log)) if line.strip()), "")
        return f"{self.file} ended with exit code {code}: {last} (see {self.log})"

    def close(self) -> None:
        """Keeps how much memory the row took, and lets others have it."""
        path = self.each.folder / "memory.json"
        peak = max(self.peak, read_json(path).get("peak_bytes", 0))
        with contextlib.suppress(OSError), atomic_write(path) as draft:
            draft.write_text(json.dumps({"peak_bytes": peak}) + "\n")
        self.lock.close()


def last_step(folder: Path) -> int:
    """The step of the last whole line of log.csv; 0 before there is one."""
    try:
        return int(tail(folder / "log.csv")[-2].split(",")[0])
    except (ValueError, IndexError):
        return 0


def tail(path: Path) -> list[str]:
    """The last lines of a file, the very last of which is empty or has not ended; none where there is no file."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
        return file.read().decode(errors="replace").split("\n")
    return []
