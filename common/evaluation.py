"""Measures a trained experiment and draws its figures; a test.py's main part only calls `test`."""

import importlib.metadata
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from common import checkpoint, classifier, datasets, experiment, metrics, plots
from common.checkpoint import State, load_network
from common.datasets import Dataset
from common.experiment import Experiment
from common.files import UserError, atomic_write, bar, one_line_errors, read_json, say
from common.training import describe, draw_training

# Increase it when the measures change, so that run_all.sh runs test.py again.
MEASURES = 4
# By the protocol of two reports; measured only for the rows for which they give it.
REPORT_FID = "FID (Inception, 3,000 training images)"
WINDOW = 782  # steps that a number on a training curve is averaged over: an epoch of one of the reports


def test(runs: dict, networks: tuple[str, ...], generate: Callable, curves: dict, report: Callable) -> None:
    """Measures the trained row that the command line names, draws its figures and writes metrics.json.

    Args:
        runs: as for `train`.
        networks: the names of the networks to load; `generate` draws from the first.
        generate, curves: as for `train`.
        report: `report(experiment, networks, images)` gets the networks by name and a `Dataset`, draws the model's
            own figures into `experiment.folder`, and returns a dict of its own numbers or strings, or dicts of them.
    """
    with one_line_errors():
        chosen = experiment.select(runs, report)
        chosen.require_checkpoint()
        images = datasets.load(chosen.row["dataset"])
        state, loaded, measured = load(chosen, images, networks)
        describe(chosen, images)
        kept = f"; measuring step {measured:,}, with the lowest {chosen.row['keep']}" if state.best else ""
        say(f"  state   {state.step:,} of {chosen.steps:,} steps done{kept}")

        drawer = loaded[networks[0]]
        snapshots = checkpoint.by_step(chosen.folder / "snapshots")
        networks_by_step = {step: path for step, path in snapshots.items() if step <= state.step} | {measured: drawer}
        say(f"  measuring {sample_count(images):,} generated images")
        generated, floor = measure(chosen, images, generate, drawer)
        by_step = fid_by_step(chosen, images, generate, networks_by_step)
        say("  drawing figures")
        plots.samples(generate(drawer, 64, chosen.seed), chosen.folder / "samples.png")  # of the measured step
        log = draw_training(chosen, curves)
        title = f"{chosen.title}: {len(images.dev.images):,} samples against the dev set"
        beside = {**siblings_fid(chosen, runs, images.source), chosen.name: by_step}
        plots.fid_by_step({name: beside[name] for name in runs if name in beside}, chosen.folder, title)
        say("  model-specific measures and figures")
        own = report(chosen, loaded, images)
        result = describe_result(chosen, images, state, measured) | {
            "metrics": generated,
            "real dev images": floor,
            "own": own,
            "FID by step": by_step,
            "reported": chosen.row.get("reported", {}),
            "beside the reports": beside_reports(chosen.row.get("reported", {}), generated | own, log),
        }
        with atomic_write(chosen.folder / "metrics.json") as draft:
            finite = json.loads(json.dumps(result), parse_constant=lambda name: None)  # JSON has no NaN
            draft.write_text(json.dumps(finite, indent=1) + "\n")
        show(result)
        if state.step < chosen.steps:
            say(f"  UNFINISHED: {state.step:,} of {chosen.steps:,} steps; these numbers are for step {measured:,}")
        say(f"done: metrics.json and the figures are in {chosen.folder}")


def load(chosen: Experiment, images: Dataset, networks: tuple[str, ...]) -> tuple[State, dict, int]:
    """Returns the state, the networks by name and the step they are all from; works while a train.py is saving.

    Raises:
        UserError: A network is missing, or they are from different steps.
    """
    paths = {name: chosen.folder / f"{name}.keras" for name in networks}
    train, again = f"run this first: {chosen.command('train.py')}", f"delete {chosen.folder} and train again"
    for _ in range(10):
        state = checkpoint.begin(chosen, images.identity)
        if missing := [path.name for path in paths.values() if not path.is_file()]:
            raise UserError(f"{missing[0]} is missing from {chosen.folder}; {again if state.best else train}")
        before = {checkpoint.network_step(path) for path in paths.values()}
        loaded = {name: load_network(path) for name, path in paths.items()}
        after = {checkpoint.network_step(path) for path in paths.values()}
        if before == after and len(after) == 1:
            latest = state.best[1] if state.best else state.step
            return state, loaded, after.pop() or latest
        time.sleep(1)
    lost = state.best and state.step >= chosen.steps  # else train.py writes them again
    raise UserError(f"the networks in {chosen.folder} are from different steps; {again if lost else train}")


def sample_count(images: Dataset) -> int:
    """Returns how many generated images are measured: as many as there are test images, at most 10,000."""
    return min(10_000, len(images.test.images))


def measure(chosen: Experiment, images: Dataset, generate: Callable, drawer) -> tuple[dict, dict]:
    """Returns the metrics of generated images and, for comparison, of real dev images, both against the test images."""
    real, training = images.test.images, images.train.images
    count = sample_count(images)
    sets = {"generated": generate(drawer, count, chosen.seed), "real": images.dev.images}
    generated, floor = metrics.measure(sets, real, training, chosen.row["dataset"]).values()
    if any(REPORT_FID in figures for figures in chosen.row.get("reported", {}).values()):
        generated[REPORT_FID] = metrics.report_fid(
            lambda number: generate(drawer, number, chosen.seed + 1), training, chosen.seed
        )
    return generated, floor


def fid_by_step(chosen: Experiment, images: Dataset, generate: Callable, networks: dict) -> dict[int, float]:
    """Returns the FID against the dev images by step; `networks` gives the network, or its path, by step."""
    name, dev, found = chosen.row["dataset"], images.dev.images, {}
    say(f"  FID at {len(networks)} steps")
    reference = classifier.features(dev, name)
    with bar(total=len(networks), unit="step", leave=False) as progress:
        for step, network in sorted(networks.items()):
            drawer = load_network(network) if isinstance(network, Path) else network
            drawn = generate(drawer, len(dev), chosen.seed)
            found[step] = metrics.frechet_distance(reference, classifier.features(drawn, name))
            progress.update()
    return found


def siblings_fid(chosen: Experiment, runs: dict, source: str) -> dict[str, dict[int, float]]:
    """Returns, by name, the FID by step of all rows measured on the images `source` with the same SEED and STEPS."""
    suffix, found = chosen.folder.name.removeprefix(chosen.name), {}
    for name in runs:
        result = read_json(chosen.folder.with_name(name + suffix) / "metrics.json")
        if result.get("dataset") == source and result.get("FID by step"):
            found[name] = {int(step): value for step, value in result["FID by step"].items()}
    return found


def latent_space(chosen: Experiment, images: Dataset, to_images: Callable, sample: Callable) -> dict:
    """Draws the latent grids between four random codes; returns `latent_path`'s numbers.

    Args:
        to_images: maps codes (n, latent_dim) to uint8 images (n, H, W, C).
        sample: `sample(count, seed)` returns random codes (count, latent_dim).
    """
    corners, beyond = sample(4, [chosen.seed, -3]).numpy(), np.linspace(-1, 2, 22)
    plots.latent_grids(to_images, corners, beyond, chosen.folder, chosen.title, "four random codes")
    return latent_path(chosen, images, to_images, sample)


def latent_path(chosen: Experiment, images: Dataset, to_images: Callable, sample: Callable) -> dict:
    """Returns `metrics.latent_path` over 1,000 lines, or as many as there are test images if fewer."""
    count = min(1000, len(images.test.images))
    ends = tf.reshape(sample(2 * count, [chosen.seed, -6]), [2, count, -1])
    return metrics.latent_path(to_images, ends, images.test.images, chosen.row["dataset"])


def describe_result(chosen: Experiment, images: Dataset, state: State, measured: int) -> dict:
    """Returns what metrics.json says about the experiment besides its results."""
    versions = {name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "tensorflow-gan")}
    extractor = classifier.classifier_of(chosen.row["dataset"])
    return {
        "model": chosen.script.name,
        "run": chosen.name,
        "dataset": images.source,
        "fingerprint": images.fingerprint,
        "images": {name: len(part.images) for name, part in images.splits().items()}
        | {"generated": sample_count(images)},
        "steps": state.step,
        "steps_planned": chosen.row["steps"],
        "step measured": measured,
        "seed": chosen.seed,
        "seconds": round(state.seconds, 1),
        "measures": MEASURES,
        "extractors": {
            "classifier": f"the {extractor} classifier of common/classifier.py, 128 features",
            "Inception": "TF-GAN's Inception of TF-Hub, pool_3, 2048 features",
        },
        "versions": {"python": platform.python_version()} | versions,
    }


def beside_reports(reported: dict, measured: dict, log: list[dict]) -> dict[str, dict[str, dict]]:
    """Returns, by source and measure, a report's number as "reported", and as "ours" our value of it, or None.

    Args:
        reported: a row's numbers by source and measure. A dict {step: value} is a curve: ours is the log's column of
            this name, for the dev set at that step, else the mean over the WINDOW steps up to it.
        measured: our numbers by name.
        log: the lines of log.csv.
    """

    def logged(column, step):
        first = step if column.startswith("dev_") else step - WINDOW + 1
        values = [float(row[column]) for row in log if row.get(column) and first <= int(row["step"]) <= step]
        return float(np.mean(values)) if values and int(log[-1]["step"]) >= step else None

    found = {}
    for source, figures in reported.items():
        found[source] = {}
        for name, value in figures.items():
            if not isinstance(value, dict):
                found[source][name] = {"reported": value, "ours": measured.get(name)}
                continue
            for step, number in value.items():
                found[source][f"{name} at step {step:,}"] = {"reported": number, "ours": logged(name, step)}
    return found


def show(result: dict) -> None:
    """Prints the numbers of a result, without its dicts, and next to ours the reports' numbers for what we measured."""

    def cell(value):
        if value is None:
            return "-"
        return value if isinstance(value, str) else f"{value:.5g}"

    say(f"  {'':46}{'generated':>12}{'real':>12}")
    for name, value in (result["metrics"] | result["own"]).items():
        if not isinstance(value, dict):
            say(f"  {name:46}{cell(value):>12}{cell(result['real dev images'].get(name)):>12}")
    compared = [
        f"  {name:46}{cell(pair['ours']):>12}{cell(pair['reported']):>12}  {source}"
        for source, figures in result["beside the reports"].items()
        for name, pair in figures.items()
        if pair["ours"] is not None  # neither unmeasured nor at a step that has not been reached
    ]
    if compared:
        say(f"  {'':46}{'ours':>12}{'reported':>12}")
    for line in compared:
        say(line)
