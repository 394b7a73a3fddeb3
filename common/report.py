"""`python -m common.report`: publishes the measured runs of RUNS_DIR.

Copies a small version of each run into results/. Then, from results/ alone, rewrites whatever is between
`<!-- table: NAME -->` and `<!-- end -->` in README.md, RESULTS.md and each model's README.md, which shows only that
model, and leaves the prose around it unchanged. The tables are in common/tables.py.
"""

import csv
import re
import shutil
from importlib import import_module
from pathlib import Path

from PIL import Image

from common import experiment, plots, tables
from common.checkpoint import load_network, read_log
from common.classifier import save_small
from common.experiment import steps_suffix
from common.files import ROOT, UserError, atomic_write, one_line_errors, say
from common.tables import Row, read

# The pictures that show no image of the dataset. CelebA forbids publishing its images, CIFAR-10 states no terms.
GENERATED = {"samples", "curves", "fid_by_step", "decoded", "tsne", "pairs", "categorical", "continuous",
             "interpolation", "extrapolation"}  # fmt: skip
LARGEST_PICTURE = 300_000  # bytes
MARKER = re.compile(r"(<!-- table: ([^\n]*?) -->\n).*?(<!-- end -->)", re.DOTALL)


def publish(folder: Path, results: Path) -> None:
    """Keeps a run in `results`/<model>/<its folder's name>, unless it is a rehearsal or a larger one is there."""
    result = read(folder / "metrics.json")
    if result is None:
        say(f"not kept: {folder / 'metrics.json'} is damaged or from another version")
        return
    if steps_suffix(folder):
        return
    target = results / result["model"] / folder.name
    there = read(target / "metrics.json")
    if result == there:  # nothing new; the log and the networks may be from later steps already
        return
    if there and any(now < then for now, then in zip(size(result), size(there))):
        say(f"not kept: {target} has more images, more steps or newer measures than {folder}")
        return
    try:
        keep(folder, target, result)
        say(f"kept {target}")
    except (ImportError, OSError, LookupError, TypeError, ValueError, UserError) as error:  # missing or damaged
        say(f"not kept: {folder} ({error})")


def size(result: dict) -> tuple[int, int, int]:
    """Returns how large a run is: its training images, its steps and the version of its measures."""
    return result["images"]["training"], result["steps"], result["measures"]


def keep(folder: Path, target: Path, result: dict) -> None:
    """Copies a small version of a run, whose metrics.json is `result`, to `target`, once the copy is whole."""
    draft = target.with_name(f"~new-{target.name}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    shutil.copy(folder / "metrics.json", draft)
    keep_log(folder, draft, dev_only=result["seed"] != 0)
    if result["seed"] == 0:
        keep_pictures(folder, draft, digits="MNIST" in result["dataset"])
        keep_network(folder, draft, result)
    if target.exists():
        shutil.rmtree(target)
    draft.rename(target)


def keep_log(folder: Path, target: Path, dev_only: bool) -> None:
    """Keeps the log's lines with dev losses and about 250 others; if `dev_only`, just the dev losses, if any."""
    log = read_log(folder)
    if not (log or dev_only):
        raise UserError("log.csv is missing")
    every = max(1, len(log) // 250)
    lines = [line for number, line in enumerate(log, 1) if has_dev(line) or not (dev_only or number % every)]
    if lines:
        columns = [name for name in lines[0] if not dev_only or name == "step" or name.startswith("dev_")]
        with open(target / "log.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(lines)


def has_dev(line: dict) -> bool:
    """Returns whether a line of a log has dev losses."""
    return any(value for name, value in line.items() if name.startswith("dev_"))


def keep_pictures(folder: Path, target: Path, digits: bool) -> None:
    """Keeps training.gif and the figures; unless the images are `digits`, only figures without original images."""
    shutil.copy(folder / "training.gif", target)
    for path in folder.glob("[!~]*.png"):
        if digits or re.sub(r"_\d+$", "", path.stem) in GENERATED:
            save_picture(Image.open(path).convert("RGB"), target / path.name)


def save_picture(picture: Image.Image, path: Path) -> None:
    """Saves a picture in 128 colours, a third of the size (with 32, two lines may share one), shrunk until small."""
    picture.quantize(128).save(path, optimize=True)
    while path.stat().st_size >= LARGEST_PICTURE:
        picture = picture.resize([side * 9 // 10 for side in picture.size])
        picture.quantize(128).save(path, optimize=True)


def keep_network(folder: Path, target: Path, result: dict) -> None:
    """Keeps the network that draws the images, only for a script's first row."""
    runs = import_module(f"{result['model']}.train").RUNS
    if result["run"] == next(iter(runs)):
        for path in (*folder.glob("generator.keras"), *folder.glob("decoder.keras")):
            save_small(load_network(path), target / path.name)


def pages(root: Path) -> list[Path]:
    """Returns the files that may have markers."""
    paths = [root / "README.md", root / "RESULTS.md", *(root / model / "README.md" for model in tables.MODELS)]
    return [path for path in paths if path.is_file()]


def fill(path: Path, rows: list[Row]) -> str:
    """Returns the text of a page with its tables rewritten.

    Raises:
        UserError: A marker's name is unknown, or its end is missing.
    """
    text, model = path.read_text(), path.parent.name
    if (path.parent / "train.py").is_file():
        rows = [row for row in rows if row[0]["model"] == model]

    def write(marker):
        start, name, end = marker.groups()
        if name not in tables.TABLES and name not in tables.QUESTIONS:
            known = ", ".join([*tables.TABLES, *tables.QUESTIONS])
            raise UserError(f"{path} has a marker for an unknown table {name!r}: choose one of {known}")
        return f"{start}{tables.write(name, rows, path.parent)}\n{end}"

    if text.count("<!-- table: ") != len(MARKER.findall(text)):
        raise UserError(f"{path} has a marker <!-- table: ... --> without an <!-- end -->: add it")
    return MARKER.sub(write, text)


def draw_seeds(rows: list[Row], path: Path) -> None:
    """Draws the dev losses of all seeds of the smallest VAEs, by active units of the code, with A's and E's."""
    logs, ends = {}, {}
    for row in tables.chosen(rows, tables.SEEDS):
        active = {}
        for result in row:
            log = read_log(result["folder"])
            if any(map(has_dev, log)) and tables.UNITS in result["own"]:
                active.setdefault(result["own"][tables.UNITS], []).append(log)
        if active:
            name, reported = tables.called(row), {key: tables.reported_end(row, key, "dev_loss") for key in ("A", "E")}
            logs[name] = {f"active units: {units}": active[units] for units in sorted(active)}
            ends[name] = {key: value for key, value in reported.items() if value is not None}
    if logs:
        plots.dev_losses(logs, ends, path)


def draw_compared(rows: list[Row], folder: Path) -> None:
    """Draws the curves of all VAEs with the same images in one figure, compared_<dataset>.png in `folder`."""
    panels = {label: column for label, (column,) in import_module("vae.train").CURVES.items()}
    figures = {}
    for row in rows:
        first = row[0]
        log = read_log(first["folder"]) if first["model"] == "vae" else []
        if log and "loss" in log[0]:  # other seeds than 0 have only dev losses
            _, logs = figures.setdefault(tables.compared(row), (first["dataset"], {}))
            logs.setdefault(first["run"], log)  # the longest comes first
    for name, (dataset, logs) in figures.items():
        plots.compared(logs, panels, folder / name, f"{dataset}: dev set")


def write_page(page: Path, paths: list[Path], title: str) -> None:
    """Writes a page in RUNS_DIR with the tables and pictures of the measured runs, whose metrics.json are `paths`."""
    rows = tables.read_rows(paths)
    draw_compared(rows, page.parent / "vae")
    parts = [f"# {title}"]
    for heading, name in (("Results", "results"), ("Compared with the reports", "reports"), ("Pictures", "gallery")):
        parts += [f"## {heading}", tables.write(name, rows, page.parent)]
    with atomic_write(page) as draft:
        draft.write_text("\n\n".join(parts) + "\n")


def main(runs_dir: Path, root: Path) -> None:
    """Publishes the runs of `runs_dir` in the repository `root`."""
    results = root / "results"
    for path in sorted(runs_dir.glob("*/*/metrics.json")):
        publish(path.parent, results)
    rows = tables.read_rows(results.glob("*/[!~]*/metrics.json"))
    draw_seeds(rows, results / "vae" / "seeds.png")
    draw_compared(rows, results / "vae")
    texts = {path: fill(path, rows) for path in pages(root)}  # all before the first is written, in case of an error
    for path, text in texts.items():
        if text != path.read_text():
            with atomic_write(path) as draft:
                draft.write_text(text)
            say(f"wrote {path}")


if __name__ == "__main__":
    with one_line_errors():
        main(experiment.runs_dir(), ROOT)
