"""Handles --help and most mistakes in train.py and test.py before they import TensorFlow, which takes seconds."""

import ast
import difflib
import os
import sys
from pathlib import Path

from common import experiment
from common.files import ROOT, one_line_errors, say

HELP = {"-h", "--help"}
VARIABLES = {
    "DATA_DIR": "folder of mnist.npz, cifar10.npz and celeba/ (default: data/); all but celeba/ can be downloaded",
    "RUNS_DIR": "folder of the results (default: runs/)",
    "SEED": "random seed (default: 0); other seeds get their own folders",
    "STEPS": "number of training steps; a non-default number gets its own folder",
    "JOBS": "for ./run_all.sh: how many experiments run at once",
}


def check_command_line() -> None:
    """Checks the command line of one of this repository's scripts; ends the process if there is nothing to run.

    Raises:
        SystemExit: With 0 after --help, with 2 after a mistake.
    """
    script = Path(*sys.argv[:1])
    folder = script.resolve().parent
    if script.name not in ("train.py", "test.py") or folder.parent != ROOT:
        return
    with one_line_errors():
        runs = read_runs(folder / "train.py")
        if HELP & {*sys.argv[1:]}:
            say(help_text(script, runs))
            sys.exit(0)
        warn_of_variables()
        experiment.data_dir()
        if runs:
            chosen = experiment.named(folder, runs, experiment.asked(runs))
            if script.name == "test.py":
                chosen.require_checkpoint()


def read_runs(path: Path) -> dict | None:
    """Returns RUNS of a train.py, without importing it; None if it is not a single literal."""
    tree = ast.parse(path.read_bytes(), path)
    named = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "RUNS"]
    literals = [node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0] in named]
    if len(literals) != 1 or len(named) != 2:  # its definition, and the argument of `train`
        return None
    try:
        return eval(compile(ast.Expression(literals[0]), path, "eval"), {"__builtins__": {"dict": dict}})
    except Exception:  # it refers to other names in the file
        return None


def help_text(script: Path, runs: dict | None) -> str:
    """Returns what --help prints."""
    title = ast.get_docstring(ast.parse(script.read_bytes(), script)) or ""
    lines = [f"usage: python {script} [experiment]", "", title, ""]
    if runs:
        lines += ["experiments (first = default):"]
        lines += [f"  {name:22}{describe_row(row)}" for name, row in runs.items()]
        lines += [""]
    return "\n".join([*lines, variables(), "", f"{script.parent / 'README.md'} describes the experiments."])


def describe_row(row: dict) -> str:
    """Describes a row in a line: its images, its steps and the reports that it is from."""
    sources = sorted({source.split(",")[0] for source in row.get("reported", {})})
    named = [f"report {source}" if len(source) == 1 else source for source in sources]
    source = f"from {' and '.join(named)}" if named else "ours"
    return f"{row['dataset']:13}{row['steps']:>8,} steps, batch size {experiment.batch(row):<8}{source}"


def variables() -> str:
    """Lists the environment variables, one per line."""
    return "\n".join(["environment variables:", *(f"  {name:22}{what}" for name, what in VARIABLES.items())])


def warn_of_variables() -> None:
    """Warns about environment variables that look like one of VARIABLES, but are not."""
    for name in os.environ:
        if name not in VARIABLES and (near := difflib.get_close_matches(name.upper(), VARIABLES, 1, 0.85)):
            say(f"*** ignoring the environment variable {name}; did you mean {near[0]}?")
