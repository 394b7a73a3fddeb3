"""What ./run_all.sh has to do: the rows of all scripts that match its words, and what each of them still needs."""

import contextlib
from importlib import import_module
from typing import NamedTuple

from common import checkpoint, datasets, evaluation, experiment
from common.experiment import Experiment, did_you_mean
from common.files import ROOT, UserError, explain, read_json, say

TESTING = 90  # seconds that a test.py takes, roughly
MEMORY = 1.5e9  # bytes assumed for a row that was never run


class Job(NamedTuple):
    """A row, and what it still needs."""

    experiment: Experiment
    identity: dict[str, str] | None  # of its images; None if they can't be read
    calls: list[str]  # which of train.py and test.py to run
    seconds: float | None  # that they will take, roughly; None if unknown
    memory: float  # bytes

    @property
    def title(self) -> str:
        return self.experiment.title


def plan(words: list[str]) -> tuple[list[Job], dict[str, UserError]]:
    """Returns the jobs of the rows that match all `words`, and the errors of unreadable datasets, by dataset."""
    chosen, identities, absent = choose(words), {}, {}
    for dataset in sorted({each.row["dataset"] for each in chosen}):
        try:
            identities[dataset] = datasets.load(dataset).identity
        except (OSError, UserError) as error:  # such as another user's file; must not end the other rows
            absent[dataset] = UserError(explain(error))
    jobs = []
    for each in chosen:
        identity = identities.get(each.row["dataset"])
        calls = missing(each, identity) if identity else []
        jobs.append(Job(each, identity, calls, estimate(each, calls), memory(each)))
    return jobs, absent


def choose(words: list[str]) -> list[Experiment]:
    """Returns the rows that match all `words`, each word being a script, a row or a part of its name.

    Raises:
        UserError: No row matches.
    """
    chosen, known, broad = [], set(), set()
    for script in sorted(path.parent for path in ROOT.glob("*/train.py")):
        runs = import_module(f"{script.name}.train").RUNS
        for name in runs:
            names = {script.name, name, *name.split("_")}
            known |= names
            broad |= {script.name, name.split("_")[0]}
            if names.issuperset(words):
                chosen.append(experiment.named(script, runs, name))
    if not chosen:
        wrong = [f"{word}{did_you_mean(word, known)}" for word in words if word not in known] or words
        raise UserError(
            f"no experiment matches {' and '.join(wrong)}: choose from {', '.join(sorted(broad))}, or name one "
            "experiment; without a word, ./run_all.sh runs all"
        )
    return chosen


def missing(each: Experiment, identity: dict[str, str]) -> list[str]:
    """Returns what is still to be run for a row: train.py and test.py, test.py, or nothing."""
    try:
        state = checkpoint.begin(each, identity)
    except (OSError, UserError):
        return ["train.py"]  # which prints the error
    if state.step < each.steps:
        return ["train.py", "test.py"]
    metrics = read_json(each.folder / "metrics.json")
    measured = metrics.get("steps"), metrics.get("dataset"), metrics.get("measures")
    return [] if measured == (state.step, identity["images"], evaluation.MEASURES) else ["test.py"]


def estimate(each: Experiment, calls: list[str]) -> float | None:
    """Estimates the seconds that `calls` will take from the run's own pace or that in results/; None without either."""
    seconds = TESTING * calls.count("test.py")
    if "train.py" not in calls:
        return seconds
    state = None
    with contextlib.suppress(OSError, UserError):  # a checkpoint that is damaged or can't be read
        state = checkpoint.read_state(each.folder)
    if state and state.step:
        return seconds + (each.steps - state.step) * state.seconds / state.step
    kept = read_json(ROOT / "results" / each.script.name / each.name / "metrics.json")
    if kept.get("steps") and kept.get("seconds"):
        return seconds + each.steps * kept["seconds"] / kept["steps"]
    return None


def memory(each: Experiment) -> float:
    """Returns the peak memory in bytes of the row's earlier runs, with any SEED and STEPS; MEMORY if there are none."""
    folders = [each.folder.with_name(each.name), *each.folder.parent.glob(f"{each.name}-*")]
    return max(read_json(folder / "memory.json").get("peak_bytes", 0) for folder in folders) or MEMORY


def show(jobs: list[Job], absent: dict[str, UserError], places: int) -> None:
    """Prints what will be done, with `places` rows at a time."""
    todo = [job for job in jobs if job.calls]
    seconds = [job.seconds for job in todo if job.seconds is not None]
    line = f"experiments: {len(jobs)}, to do: {len(todo)}"
    if todo:
        line += f", {places} at a time"
    if seconds:
        line += f", about {about(max(sum(seconds) / places, *seconds))} at the pace of earlier runs"
    if len(seconds) < len(todo):
        line += f", {len(todo) - len(seconds)} of unknown duration"
    say(line)
    for job in jobs:
        say(f"  {job.title:26} {job.experiment.steps:>8,} steps  {described(job)}")
    for dataset, error in absent.items():
        say(f"  without {dataset}: {error}")
    say()


def described(job: Job) -> str:
    """Describes what is to be done for a row, and how long it will take."""
    if not job.identity:
        return f"no {job.experiment.row['dataset']}"
    if not job.calls:
        return "done"
    text = " and ".join(job.calls)
    return text if job.seconds is None else f"{text}, about {about(job.seconds)}"


def about(seconds: float) -> str:
    """Formats a time in minutes, or in hours above ten hours."""
    return f"{round(seconds / 3600):,} hours" if seconds > 36_000 else f"{round(seconds / 60)} minutes"
