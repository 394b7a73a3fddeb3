"""Draws sheets of images, curves, latent grids and t-SNE. Images are uint8 (n, H, W, C) throughout."""

from collections.abc import Callable
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import LogLocator
from PIL import Image
from sklearn.manifold import TSNE

from common.files import atomic_write

plt.rcParams.update({"figure.dpi": 110, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
                     "grid.alpha": 0.3, "legend.frameon": False})  # fmt: skip
# Okabe and Ito's palette, which is safe for colour-blind readers, plus grey and wine.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442", "#999999", "#882255"]


def sheet(images: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Returns one uint8 image (H', W', C) of the images row by row, with thin grey lines between them."""
    count, height, width, channels = images.shape
    columns = columns or int(np.ceil(count**0.5))
    rows = -(-count // columns)
    canvas = np.full((rows, height + 2, columns, width + 2, channels), 128, np.uint8)
    for i, image in enumerate(images):
        canvas[i // columns, 1:-1, i % columns, 1:-1] = image
    return canvas.reshape(rows * (height + 2), columns * (width + 2), channels)


def samples(images: np.ndarray, path: Path) -> None:
    """Saves a sheet of the images as a picture, without a frame around it."""
    with atomic_write(path) as draft:
        keras.utils.save_img(draft, sheet(images), scale=False)


def gif(frames: list[Path], path: Path) -> None:
    """Saves an animation of at most 20 of the 8x8 sheets in `frames`, evenly spaced, the last one held for two seconds.

    To stay below 300 kB, it shows only the top-left images in few colours: 5x5 grey ones, 4x4 in colour; of images
    larger than 32x32, 3x3 in at most 10 frames.
    """
    pictures, first = [], Image.open(frames[0])
    side, count = (3, 10) if first.width > 300 else (5 if first.mode == "L" else 4, 20)
    for i in np.unique(np.linspace(0, len(frames) - 1, count).round().astype(int)):
        frame = Image.open(frames[i])
        corner = frame.crop((0, 0, frame.width * side // 8, frame.height * side // 8))
        # k-means keeps rare, bright colours; greys don't need it.
        pictures.append(corner.quantize(16) if frame.mode == "L" else corner.quantize(64, kmeans=1))
    durations = [200] * (len(pictures) - 1) + [2000]
    with atomic_write(path) as draft:
        pictures[0].save(draft, save_all=True, append_images=pictures[1:], duration=durations, loop=0)


def _save(figure: plt.Figure, path: Path) -> None:
    with atomic_write(path) as draft:
        figure.savefig(draft, bbox_inches="tight")  # with the whole of a long title
    plt.close(figure)


def _limit(axis: plt.Axes, shown: list[float], percentile: float) -> None:
    """Limits the y axis to the central percentiles: the first steps' spike would flatten the rest."""
    low, high = np.percentile(shown, [100 - percentile, percentile])
    axis.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low) + 1e-9)


def _marker(points: list) -> str:
    """Returns the marker of a curve: none, unless it is a single point, whose line would be invisible."""
    return "o" if len(points) == 1 else ""


def curves(log: list[dict], panels: dict[str, list[str]], path: Path, title: str) -> None:
    """Draws training curves, a panel per axis label: the raw column (pale), its running mean, the dev set (dashed).

    Columns that the log doesn't have are left out, and so are panels without columns.
    """
    panels = {label: [column for column in columns if column in log[0]] for label, columns in panels.items()}
    panels = {label: columns for label, columns in panels.items() if columns}
    figure, axes = plt.subplots(1, len(panels), figsize=(5.5 * len(panels), 4), squeeze=False, layout="constrained")
    step = np.array([int(row["step"]) for row in log])
    window = max(1, len(step) // 50)
    for axis, (label, columns) in zip(axes[0], panels.items()):
        shown = []
        for colour, column in zip(COLOURS, columns):
            raw = np.array([float(row[column]) for row in log])
            # A mean over `window` lines, over fewer at both ends.
            total, count = (np.convolve(values, np.ones(window), "same") for values in (raw, np.ones(len(raw))))
            axis.plot(step, raw, color=colour, alpha=0.25, linewidth=0.7)
            axis.plot(step, total / count, color=colour, linewidth=1.8, label=column)
            dev = [(int(row["step"]), float(row[f"dev_{column}"])) for row in log if row.get(f"dev_{column}")]
            if dev:
                axis.plot(*zip(*dev), "k--", marker=_marker(dev), linewidth=1.3, label=f"{column}, dev set")
            shown += [*raw, *(value for _, value in dev)]
        _limit(axis, shown, 99.5)
        axis.set(xlabel="training step", ylabel=label)
        axis.legend()
    means = f" (pale: each line of the log, bold: mean over {window})" if window > 1 else ""
    figure.suptitle(f"{title}: training curves{means}")
    _save(figure, path)


def pictures(panels: dict[str, np.ndarray], path: Path, title: str) -> None:
    """Draws sheets of images side by side, each under its name."""
    sheets = {name: sheet(images) for name, images in panels.items()}
    height, width = next(iter(sheets.values())).shape[:2]
    size = 3.6 * len(sheets) * max(1, width / height), 0.5 + 3.6 * max(1, height / width)
    figure, axes = plt.subplots(1, len(sheets), figsize=size, squeeze=False, layout="constrained")
    for axis, (name, image) in zip(axes[0], sheets.items()):
        axis.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255)
        axis.set_title(name)
        axis.axis("off")
    figure.suptitle(title)
    _save(figure, path)


def pairs(rows: dict[str, np.ndarray], path: Path, title: str, columns: list[str] | None = None) -> None:
    """Draws rows of images that belong together by column, with row names on the left and any `columns` below."""
    images = np.concatenate(list(rows.values()))
    count = len(images) // len(rows)
    image = sheet(images, count)
    figure, axis = plt.subplots(figsize=(0.9 * count + 1.5, 0.9 * len(rows) + 0.6), layout="constrained")
    axis.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255)
    axis.set_yticks((np.arange(len(rows)) + 0.5) * image.shape[0] / len(rows), list(rows))
    axis.set_xticks((np.arange(count) + 0.5) * image.shape[1] / count if columns else [], columns)
    axis.set_title(title)
    axis.grid(False)
    axis.spines[:].set_visible(False)
    _save(figure, path)


def latent_grid(corners: np.ndarray, ticks: np.ndarray) -> np.ndarray:
    """Returns codes (n, n, d) between four codes z1..z4, the `corners` (4, d), at all y and x from `ticks` (n,).

    z(x, 0) = z1 + x (z2 - z1),  z(x, 1) = z3 + x (z4 - z3),  z(x, y) = z(x, 0) + y (z(x, 1) - z(x, 0)):
    interpolation for x and y from 0 to 1, with the codes in the grid's corners, and extrapolation beyond.
    """
    z1, z2, z3, z4 = corners
    x, y = ticks[None, :, None], ticks[:, None, None]
    low, high = z1 + x * (z2 - z1), z3 + x * (z4 - z3)
    return low + y * (high - low)


def latent_grids(
    to_images: Callable, corners: np.ndarray, beyond: np.ndarray, folder: Path, title: str, what: str
) -> None:
    """Draws interpolation.png and extrapolation.png: the images of both grids between four codes.

    Args:
        to_images: maps codes (n, d) to uint8 images (n, H, W, C).
        corners: the codes (4, d).
        beyond: the extrapolation's weights (n,), including 0 and 1.
        what: how the title describes the codes.
    """
    for name, ticks in (("interpolation", np.linspace(0, 1, 15)), ("extrapolation", beyond)):
        codes = latent_grid(corners, ticks).astype(np.float32)
        image = sheet(to_images(codes.reshape(-1, codes.shape[-1])), len(ticks))
        cell = image.shape[0] / len(ticks)
        figure, axis = plt.subplots(figsize=(6.2, 6.4), layout="constrained")
        axis.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255)
        places, labels = (np.arange(len(ticks)) + 0.5) * cell, [f"{tick:.2f}" for tick in ticks]
        every = -(-len(ticks) // 10)
        axis.set_xticks(places[::every], labels[::every])
        axis.set_yticks(places[::every], labels[::every])
        axis.set(title=f"{title}: interpolation\nbetween {what}, in the corners")
        axis.set(xlabel="weight of the codes at the right", ylabel="weight of the codes below")
        axis.grid(False)
        if name == "extrapolation":
            inside = [i for i, tick in enumerate(ticks) if -1e-9 <= tick <= 1 + 1e-9]
            start, size = inside[0] * cell, len(inside) * cell
            axis.add_patch(plt.Rectangle((start - 0.5, start - 0.5), size, size, fill=False, color=COLOURS[1], lw=2))
            axis.set(title=f"{title}: extrapolation\nfrom {what}, in the frame's corners")
        _save(figure, folder / f"{name}.png")


def tsne(codes: np.ndarray, panels: dict[str, tuple[np.ndarray, list[str]]], path: Path, title: str) -> None:
    """Draws a t-SNE (van der Maaten & Hinton 2008) of at most the first 2,621 codes (n, d); `title` may hold {count}.

    There is a panel, by its title, per colouring: labels (n,), which are indices into names.
    """
    codes = codes[:2621]
    points = np.zeros([len(codes), 2])  # if all codes are equal: t-SNE would divide by their spread
    if np.ptp(codes, axis=0).any():
        points = TSNE(random_state=0, init="pca").fit_transform(codes)
    columns, rows = min(3, len(panels)), -(-len(panels) // 3)
    size = (6.5, 5.5) if len(panels) == 1 else (4.6 * columns, 4.7 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axis, (name, (labels, names)) in zip(axes.flat, panels.items()):
        for label, entry in enumerate(names):
            axis.scatter(
                *points[labels[: len(codes)] == label].T,
                s=30 / len(names),
                alpha=0.7,
                linewidths=0,
                color=COLOURS[label],
                label=entry,
            )
        axis.set(title=name, xlabel="t-SNE dimension 1", ylabel="t-SNE dimension 2")
        place = {"loc": "upper right", "frameon": True} if len(names) < 5 else {"bbox_to_anchor": (1, 0.9)}
        axis.legend(markerscale=2, **place)
    figure.suptitle(title.format(count=len(codes)))
    _save(figure, path)


def compared(logs: dict[str, list[dict]], panels: dict[str, str], path: Path, title: str) -> None:
    """Draws the curves of several runs, by name, in one figure: a panel per label, with its column of the log.

    The dev set's curves are bold; the training set's, pale, are means over the log's lines between two evaluations of
    the dev set. A panel that would be empty is left out, and so is a figure without panels.
    """
    curves, colours = {}, dict(zip(logs, COLOURS))
    for label, column in panels.items():
        for name, log in logs.items():
            if any(row.get(f"dev_{column}") for row in log):
                curves.setdefault(label, {})[name] = log, column
    if not curves:
        return
    figure, axes = plt.subplots(1, len(curves), figsize=(5.5 * len(curves), 4), squeeze=False, layout="constrained")
    for axis, (label, lines) in zip(axes[0], curves.items()):
        shown = []
        for name, (log, column) in lines.items():
            steps, training, dev, since = [], [], [], []
            for row in log:
                since.append(float(row[column]))
                if row[f"dev_{column}"]:
                    steps.append(int(row["step"]))
                    training.append(np.mean(since))
                    dev.append(float(row[f"dev_{column}"]))
                    since = []
            axis.plot(steps, training, marker=_marker(steps), color=colours[name], alpha=0.35, linewidth=1)
            axis.plot(steps, dev, marker=_marker(steps), color=colours[name], label=name)
            shown += [*training, *dev]
        _limit(axis, shown, 97)
        axis.set(xlabel="training step", ylabel=label)
        axis.legend()
    figure.suptitle(f"{title} (pale: training set)")
    _save(figure, path)


def fid_by_step(runs: dict[str, dict[int, float]], folder: Path, title: str) -> None:
    """Draws fid_by_step.png: FID against training steps, of one or more runs by name, on a logarithmic axis."""
    figure, axis = plt.subplots(figsize=(5.5, 4), layout="constrained")
    for colour, (name, values) in zip(COLOURS, runs.items()):
        axis.semilogy(list(values), list(values.values()), "o-", color=colour, label=name)
    if len(runs) > 1:
        axis.legend()
    axis.set(title=title, xlabel="training step", ylabel="FID (classifier features), log scale")
    axis.grid(True, which="both")
    shown = [value for values in runs.values() for value in values.values()]
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(shown) > 5 * min(shown) else range(1, 10)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter("")
    _save(figure, folder / "fid_by_step.png")


def dev_losses(panels: dict[str, dict[str, list[list[dict]]]], ends: dict[str, dict[str, float]], path: Path) -> None:
    """Draws the dev losses of several trainings over the steps and, dashed, those that the reports ended with.

    Args:
        panels: by title and label, the logs (as in log.csv) that share the label and its colour.
        ends: by title and report, its dev loss at the end.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(5.5 * len(panels), 4), squeeze=False, layout="constrained")
    for axis, (title, labelled) in zip(axes[0], panels.items()):
        last = [*ends[title].values()]
        for colour, (label, logs) in zip(COLOURS, labelled.items()):
            for number, log in enumerate(logs):
                dev = [(int(row["step"]), float(row["dev_loss"])) for row in log if row.get("dev_loss")]
                axis.plot(*zip(*dev), color=colour, label=None if number else label)
                last.append(dev[-1][1])
        for report, value in ends[title].items():
            axis.axhline(value, color="black", linestyle="--", linewidth=1.2)
            place = {"xycoords": ("axes fraction", "data"), "va": "center", "annotation_clip": False}
            axis.annotate(f"{report}: {value:g}", (1.01, value), **place)
        low, high = min(last), max(last)  # the first steps' spike would flatten the rest
        axis.set_ylim(low - 0.1 * (high - low), high + 0.3 * (high - low))
        axis.set(title=title, xlabel="training step", ylabel="dev loss (nats)")
        axis.legend()
    figure.suptitle("Seeds, by the active units of the code; dashed: where the reports ended")
    _save(figure, path)
