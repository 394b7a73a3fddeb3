"""The tables and galleries of README.md, RESULTS.md and the models' pages, each a function of the measured rows.

A row here is the metrics.json of each of its seeds, with the same images and number of steps. For several seeds, a cell
shows the median and the range; "-" means not measured.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from statistics import median

from common.evaluation import REPORT_FID
from common.experiment import steps_suffix
from common.files import read_json, say

# What every metrics.json has.
KINDS = {
    "model": str, "run": str, "dataset": str, "steps": int, "steps_planned": int, "step measured": int, "seed": int,
    "seconds": (int, float), "measures": int, "images": dict, "metrics": dict, "real dev images": dict, "own": dict,
    "reported": dict, "beside the reports": dict,
}  # fmt: skip
# The order of the rows.
DATASETS = ["mnist", "cifar10", "celeba"]
MODELS = ["vae", "dcgan", "acgan", "infogan", "wgan"]
FID = "FID (classifier)"
METRICS = {FID: ".2f", "KID (classifier)": ".3f", "precision": ".3f", "recall": ".3f", "sharpness": ".3f",
           "FID (Inception)": ".2f"}  # fmt: skip
# The models' own numbers in the tables of all rows: their names there, and their formats.
OWN = {
    "dev ELBO (nats)": ("dev ELBO (nats)", ".2f"),
    "test MSE": ("test MSE", ".5f"),
    "asked label read (share)": ("label accuracy", ".1%"),
    "code is the digit read (share)": ("category accuracy", ".1%"),
    "Q tells real test images' digits (share)": ("Q's accuracy on real digits", ".1%"),
}
# The rows in the table and the figure of seeds, and the numbers that matter there.
SEEDS = ["vae mnist_z3", "vae mnist_z10"]
UNITS, ALIVE = "active units", "units alive in the encoder's dense layer"
# One table each: its rows, and its columns with their formats.
QUESTIONS = {
    "path": (
        ["vae mnist_z10", "vae mnist_z64", "vae mnist_z100", "dcgan mnist_padded", "dcgan mnist", "dcgan mnist_bias",
         "dcgan mnist_wide", "dcgan mnist_wide_bias"],
        {"latent path: length (of its ends' distance)": ".2f", "latent path: longest step (of the mean step)": ".2f",
         "latent path: confidence at its ends": ".3f", "latent path: confidence at its midpoints": ".3f",
         "latent path: FID of its ends (classifier)": ".1f", "latent path: FID of its midpoints (classifier)": ".1f"},
    ),
    "padded": (
        ["dcgan mnist", "dcgan mnist_wide", "dcgan mnist_padded"],
        {FID: ".1f", "precision": ".3f", "recall": ".3f", "last tenth: d_real": ".3f",
         "last tenth: d_fake_before": ".3f", "fresh discriminator: area under the ROC curve": ".3f"},
    ),
    "bias": (
        ["dcgan mnist", "dcgan mnist_bias", "dcgan mnist_wide", "dcgan mnist_wide_bias"],
        {FID: ".1f", "last tenth: d_real": ".3f", "last tenth: d_fake_before": ".3f",
         "last tenth: d_fake_after": ".3f"},
    ),
}  # fmt: skip
# A gallery shows those that exist.
PICTURES = ["samples", "dev_sheet", "decoded", "pairs", "categorical_1", "continuous_1", "continuous_2",
            "interpolation", "curves"]  # fmt: skip

Row = list[dict]  # by seed, the contents of metrics.json and its "folder"


def read(path: Path) -> dict | None:
    """Returns the contents of a metrics.json; None if it is missing or damaged."""
    result = read_json(path)
    return result if all(isinstance(result.get(key), kind) for key, kind in KINDS.items()) else None


def read_rows(paths: Iterable[Path]) -> list[Row]:
    """Returns the rows of these metrics.json, in the order of the tables; a damaged one is named and left out."""
    rows = {}
    for path in paths:
        result = read(path)
        if result is None:
            say(f"left out: {path} is damaged or from another version")
            continue
        key = result["model"], result["run"], result["dataset"], result["steps"]
        rows.setdefault(key, []).append(result | {"folder": path.parent})
    for row in rows.values():
        row.sort(key=lambda result: result["seed"])
    return sorted(rows.values(), key=order)


def order(row: Row) -> tuple:
    """Returns a sort key: dataset, model and name, with its numbers as numbers; then most images and steps first."""
    first = row[0]
    model, name = first["model"], first["run"]
    parts = [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
    place = position(name.split("_")[0], DATASETS), position(model, MODELS)
    return *place, model, parts, -first["images"]["training"], -first["steps"]


def position(name: str, names: list[str]) -> int:
    """Returns the index of `name` in `names`; a name that is not in them comes last."""
    return names.index(name) if name in names else len(names)


def called(row: Row) -> str:
    """Returns the row's model and name."""
    return f"{row[0]['model']} {row[0]['run']}"


def chosen(rows: list[Row], names: list[str]) -> list[Row]:
    """Returns the rows with these names, in this order, each with the most images and steps there are."""
    found = {called(row): row for row in reversed(rows)}
    return [found[name] for name in names if name in found]


def link(row: Row, here: Path) -> str:
    """Returns the row's name as a link to its folder, from the folder `here`."""
    return f"[{called(row)}]({relative(row[0]['folder'], here)})"


def relative(path: Path, here: Path) -> str:
    """Returns the path as a link on a page in the folder `here`."""
    return Path(os.path.relpath(path, here)).as_posix()


def numbers(row: Row, key: str) -> list[float]:
    """Returns the number `key` of each seed that has it."""
    found = [(result["metrics"] | result["own"]).get(key) for result in row]
    return [value for value in found if value is not None]


def spread(values: list[float], form: str) -> str:
    """Formats the median, and the range if the values differ."""
    if not values:
        return "-"
    lowest, middle, highest = (f"{value:{form}}" for value in (min(values), median(values), max(values)))
    if lowest == highest:
        return middle
    return f"{middle} ({lowest} to {highest})"


def cell(row: Row, key: str, form: str) -> str:
    """Formats the number `key`; for the FID, adds the number of seeds."""
    values = numbers(row, key)
    if key == FID and len(values) > 1:
        return f"{spread(values, form)}, {len(values)} seeds"
    return spread(values, form)


def progress(row: Row) -> str:
    """Describes the steps done, and of how many if training has not ended; which step was measured if not the last."""
    done, planned = row[0]["steps"], row[0]["steps_planned"]
    text = f"{done:,}"
    if done < planned:
        text += f" of {planned:,}"
    measured = [result["step measured"] for result in row]
    if any(step != done for step in measured):  # later if train.py was killed between networks and checkpoint
        text += f", measured: {spread(measured, ',.0f')}"
    return text


def own_numbers(row: Row) -> str:
    """Lists the row's model-specific numbers, each with its name."""
    found = {name: spread(numbers(row, key), form) for key, (name, form) in OWN.items()}
    return ", ".join(f"{name} {text}" for name, text in found.items() if text != "-") or "-"


def real_images(rows: list[Row]) -> dict[str, dict]:
    """Returns the metrics of the real dev images, by dataset."""
    found = {}
    for row in rows:
        for result in row:
            measured = {key: value for key, value in result["real dev images"].items() if value is not None}
            found[result["dataset"]] = found.get(result["dataset"], {}) | measured
    return found


def table(columns: list[str], lines: list[list[str]], align: str = "---:") -> str:
    """Returns a Markdown table; `align` applies to all columns but the first."""
    rule = ["---", *[align] * (len(columns) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [columns, rule, *lines])


def results_table(rows: list[Row], here: Path) -> str:
    """Returns a line per row, and one for the real dev images of each dataset, without metrics that no row has."""
    metrics = {key: form for key, form in METRICS.items() if any(numbers(row, key) for row in rows)}
    lines = []
    for row in rows:
        line = [link(row, here), row[0]["dataset"], progress(row)]
        line += [cell(row, key, form) for key, form in metrics.items()]
        minutes = [result["seconds"] / 60 for result in row]
        lines.append([*line, own_numbers(row), spread(minutes, ".0f")])
    for dataset, real in real_images(rows).items():
        values = [f"{real[key]:{form}}" if key in real else "-" for key, form in metrics.items()]
        lines.append(["real dev images", dataset, "-", *values, "-", "-"])
    return table(["experiment", "dataset", "steps", *metrics, "model-specific metric", "minutes"], lines)


def summary_table(rows: list[Row], here: Path) -> str:
    """Returns a short line per row."""
    lines = [[link(row, here), progress(row), cell(row, FID, METRICS[FID]), own_numbers(row)] for row in rows]
    return table(["experiment", "steps", FID, "model-specific metric"], lines)


def reports_table(rows: list[Row], here: Path) -> str:
    """Returns a line per number that a report gives for a row."""
    lines = []
    for row in rows:
        for source, figures in row[0]["beside the reports"].items():
            for measure, pair in figures.items():
                found = [result["beside the reports"].get(source, {}).get(measure, {}).get("ours") for result in row]
                ours = [value for value in found if value is not None]
                shown = spread(ours, ".5g") if ours else "not measured"
                lines.append([link(row, here), progress(row), source, measure, as_reported(pair["reported"]), shown])
    return table(["experiment", "our steps", "report", "measure", "reported", "ours"], lines)


def seeds_table(rows: list[Row], here: Path) -> str:
    """Returns, for the smallest VAEs, a line per seed and one for each of the reports A and E."""
    lines = []
    for row in chosen(rows, SEEDS):
        for result in row:
            loss = spread([-value for value in numbers([result], "dev ELBO (nats)")], ".1f")
            line = [link([result], here), f"seed {result['seed']}", cell([result], UNITS, "g")]
            line += [cell([result], ALIVE, "g"), cell([result], "dev KL (nats)", ".3g"), loss]
            lines.append([*line, cell([result], FID, ".1f"), cell([result], REPORT_FID, ".1f")])
        for report in ("A", "E"):
            ends = [as_reported(reported_end(row, report, column)) for column in ("dev_kl", "dev_loss")]
            fid = row[0]["reported"].get(f"{report}, text", {}).get(REPORT_FID)
            lines.append([called(row), f"report {report}", "-", "-", *ends, "-", as_reported(fid)])
    return table(
        ["experiment", "run", UNITS, "encoder units alive", "dev KL (nats)", "dev loss (nats)", FID, REPORT_FID], lines
    )


def reported_end(row: Row, report: str, column: str) -> float | None:
    """Returns the last value of a report's curve, or None if there is no curve."""
    curve = row[0]["reported"].get(f"{report}, figure", {}).get(column, {})
    return list(curve.values())[-1] if curve else None


def as_reported(value: float | str | None) -> str:
    """Formats a report's number, or returns its words."""
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:.6g}"


def question_table(rows: list[Row], here: Path, names: list[str], columns: dict[str, str]) -> str:
    """Returns a line per row in `names`, with the columns of a question."""
    lines = []
    for row in chosen(rows, names):
        lines.append([link(row, here), progress(row), *(cell(row, key, form) for key, form in columns.items())])
    return table(["experiment", "steps", *columns], lines)


def gallery(rows: list[Row], here: Path) -> str:
    """Returns a line per row, with the pictures of its first seed, and one per dataset for compared_<dataset>.png."""
    lines, of_all = [], {}
    for row in rows:
        folder = row[0]["folder"]
        there = [name for name in PICTURES if (folder / f"{name}.png").is_file()]
        if "dev_sheet" in there and "decoded" in there:
            there.remove("decoded")  # the same without the dev images
        if there:
            pictures = [picture(folder / f"{name}.png", here) for name in there]
            lines.append([link(row, here), " ".join(pictures)])
        shared = folder.with_name(compared(row))
        if shared.is_file():
            of_all[row[0]["dataset"]] = picture(shared, here)
    lines += [[f"all rows, {dataset}", shown] for dataset, shown in of_all.items()]
    return table(["experiment", "pictures"], lines, "---")


def compared(row: Row) -> str:
    """Returns the name of the figure that compares a row with others on the same images and with the same STEPS."""
    images = "_".join(re.findall(r"[A-Za-z0-9]+", row[0]["dataset"]))
    return f"compared_{images}{steps_suffix(row[0]['folder'])}.png"


def picture(path: Path, here: Path) -> str:
    """Returns an HTML image."""
    width = 250 if path.stem == "samples" else 400
    return f'<img src="{relative(path, here)}" alt="{path.stem}" title="{path.stem}" width="{width}">'


TABLES = {
    "results": results_table,
    "summary": summary_table,
    "reports": reports_table,
    "seeds": seeds_table,
    "gallery": gallery,
}


def write(name: str, rows: list[Row], here: Path) -> str:
    """Returns the table `name`, of TABLES or QUESTIONS, for a file in the folder `here`."""
    if name in QUESTIONS:
        return question_table(rows, here, *QUESTIONS[name])
    return TABLES[name](rows, here)
