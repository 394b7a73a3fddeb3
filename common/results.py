"""`python -m common.results`: what the repository keeps of the measured runs.

Copies of each run in RUNS_DIR its metrics and, of seed 0, a thinned log, the pictures and, of a script's first row, the
network that draws into results/, then writes README.md's table anew from all that results/ holds. Rehearsals (STEPS)
are not kept, nor is a run of fewer images, steps or measures than what is there, nor a picture with an image of CelebA
or CIFAR-10: the former's may not be published, and the latter states no terms.
"""

import contextlib
import csv
import json
import os
import re
import shutil
import zipfile
from importlib import import_module
from pathlib import Path

import keras
from PIL import Image

from common import data, run

RESULTS = data.ROOT / "results"
# The figures without an image of the dataset that are kept of other datasets than MNIST, their numbers left out.
GENERATED = "samples", "curves", "fid_by_step", "compared", "decoded", "tsne", "pairs", "categorical", "continuous"
# The number of its own that the table shows of a model.
OWN = {
    "dev ELBO (nats)": ("dev ELBO (nats)", ".2f"),
    "test MSE": ("test MSE", ".5f"),
    "asked label read (share)": ("label read", ".1%"),
    "code is the digit read (share)": ("code is the digit", ".1%"),
}
# What every metrics.json has.
KINDS = {
    **dict.fromkeys(("model", "run", "dataset"), str), **dict.fromkeys(("steps", "steps_planned", "seed"), int),
    **dict.fromkeys(("images", "metrics", "real dev images", "own", "reported"), dict), "seconds": (int, float),
}  # fmt: skip
START, END = "<!-- table: python -m common.results -->", "<!-- end of table -->"


def read(path: Path) -> dict | None:
    """A metrics.json; None where it is not there, or damaged."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        result = json.loads(path.read_text())
        if all(isinstance(result[key], kind) for key, kind in KINDS.items()):
            return result
    return None


def keep(folder: Path, target: Path, result: dict) -> None:
    """Copies a run's results from `folder`, whose metrics.json is `result`, to `target`, small, all or none."""
    draft = target.with_name(f"~{target.name}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    if not result["seed"]:
        keep_pictures(folder, draft, digits="MNIST" in result["dataset"])
        keep_log(folder, draft)
        if result["run"] == next(iter(import_module(f"{result['model']}.train").RUNS)):
            for path in (*folder.glob("generator.keras"), *folder.glob("decoder.keras")):
                data.save_small(keras.saving.load_model(path, compile=False), draft / path.name)
    shutil.copy(folder / "metrics.json", draft)
    old = target.with_name(f"~old-{target.name}")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    draft.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def keep_pictures(folder: Path, target: Path, digits: bool) -> None:
    """In 128 colours, which takes a third of the space. (Of 32, two lines of a figure may share one.)"""
    shutil.copy(folder / "training.gif", target)
    for path in folder.glob("[!~]*.png"):
        if digits or re.sub(r"_\d+$", "", path.stem) in GENERATED:
            Image.open(path).convert("RGB").quantize(128).save(target / path.name, optimize=True)


def keep_log(folder: Path, target: Path) -> None:
    """Some 250 of its lines, and those with dev losses."""
    log = run.read_log(folder)
    every = max(1, len(log) // 250)
    with open(target / "log.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, log[0])
        writer.writeheader()
        dev = [name for name in log[0] if name.startswith("dev_")]
        writer.writerows(row for i, row in enumerate(log) if (i + 1) % every == 0 or any(row[name] for name in dev))


def table() -> str:
    """README.md's table: a line for every folder of results/, and one for the real dev images of each dataset."""
    columns = ["run", "dataset", "steps", "FID (classifier)", "KID (classifier)", "precision", "recall", "sharpness"]
    columns += ["FID (Inception)", "its own number", "minutes", "the reports' (a FID's extractor not stated)"]
    lines = [columns, ["---", "---", *["---:"] * (len(columns) - 5), "---", "---:", "---"]]
    real = {}
    order = {"mnist": 0, "cifar10": 1, "celeba": 2}
    paths = RESULTS.glob("*/[!~]*/metrics.json")
    for path in sorted(paths, key=lambda path: (order[re.match("[a-z0-9]+", path.parent.name)[0]], path)):
        if (result := read(path)) is None:
            continue
        name = f"`{result['model']}` `{result['run']}`" + f", seed {result['seed']}" * (result["seed"] != 0)
        lines.append([name, result["dataset"], progress(result), *numbers(result["metrics"])])
        own = [f"{name} {result['own'][key]:{form}}" for key, (name, form) in OWN.items() if key in result["own"]]
        reported = [f"{report}: {k} {v}" for report, figures in result["reported"].items() for k, v in figures.items()]
        lines[-1] += [", ".join(own), f"{result['seconds'] / 60:.0f}", ", ".join(reported)]
        real[result["dataset"]] = result["real dev images"]
    lines += [["real dev images", name, "", *numbers(metrics), "", "", ""] for name, metrics in real.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def progress(result: dict) -> str:
    """The steps done, and of how many where the run has not ended."""
    done, planned = result["steps"], result["steps_planned"]
    return f"{done:,}" + f" of {planned:,}" * (done < planned)


def numbers(metrics: dict) -> list[str]:
    """The table's cells of the metrics all runs have."""
    inception = metrics["FID (Inception)"]
    cells = [f"{metrics['FID (classifier)']:.2f}"]
    error = metrics["KID standard error"]
    cells += [f"{metrics['KID (classifier)']:.2f}" + (f" ± {error:.2f}" if error is not None else "")]
    cells += [f"{metrics[name]:.3f}" for name in ("precision", "recall", "sharpness")]
    return [*cells, "unmeasured" if inception is None else f"{inception:.2f}"]


def worth_keeping(result: dict, target: Path) -> bool:
    """Whether a run is no rehearsal, and of no fewer images, steps and measures than that whose results are there."""
    if "-steps" in target.name:
        return False
    there = read(target / "metrics.json")
    if there is None:
        return True
    size = ((r["images"]["training"], r["steps"], r.get("measures", 0)) for r in (result, there))
    return all(now >= then for now, then in zip(*size))


def collect(folders: list[Path], parent: Path, rehearsal: bool = False) -> None:
    """Keeps what is worth it of the runs in `folders` in `parent`/<model>/<run>; of a rehearsal everything."""
    for folder in folders:
        result = read(folder / "metrics.json")
        if result is None:
            print(f"not kept: {folder / 'metrics.json'} is damaged")
            continue
        name = re.sub(r"-steps\d+$", "", folder.name) if rehearsal else folder.name
        target = parent / result["model"] / name
        old = target.with_name(f"~old-{name}")
        if old.exists() and not target.exists():  # a kill between the two
            old.rename(target)
        if result == read(target / "metrics.json"):
            continue
        try:
            if rehearsal or worth_keeping(result, target):
                keep(folder, target, result)
                print(f"kept {target}")
            else:
                print(f"not kept: {target} is of more images, steps or measures than {folder}")
        except (ImportError, OSError, LookupError, TypeError, ValueError, data.UserError, zipfile.BadZipFile) as error:
            print(f"not kept: {folder} ({error})")  # gone or damaged


if __name__ == "__main__":
    runs = Path(os.environ.get("RUNS_DIR") or data.ROOT / "runs")
    collect(sorted(path.parent for path in runs.glob("*/*/metrics.json")), RESULTS)
    readme = data.ROOT / "README.md"
    before, rest = readme.read_text().split(START)
    with data.whole(readme) as draft:
        draft.write_text(f"{before}{START}\n{table()}\n{rest[rest.index(END) :]}")
