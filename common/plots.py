"""The pictures: sheets of images, curves, latent grids, t-SNE. Images are uint8 (n, H, W, C) throughout."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from sklearn.manifold import TSNE

plt.rcParams.update({"figure.dpi": 110, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
                     "grid.alpha": 0.3, "legend.frameon": False})  # fmt: skip
# Okabe and Ito's palette, which the colour-blind tell apart.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442", "#999999", "#882255"]


def sheet(images: np.ndarray, columns: int | None = None) -> np.ndarray:
    """One image uint8 (H', W', C) of the images row by row, a thin grey line between them."""
    count, height, width, channels = images.shape
    columns = columns or int(np.ceil(count**0.5))
    rows = -(-count // columns)
    canvas = np.full((rows, height + 2, columns, width + 2, channels), 128, np.uint8)
    for i, image in enumerate(images):
        canvas[i // columns, 1:-1, i % columns, 1:-1] = image
    return canvas.reshape(rows * (height + 2), columns * (width + 2), channels)


def gif(frames: list[Path], path: Path) -> None:
    """An animation of at most 50 of the picture files, evenly spaced, the last one held for two seconds."""
    frames = [frames[i] for i in np.unique(np.linspace(0, len(frames) - 1, 50).round().astype(int))]
    first, *rest = (Image.open(frame) for frame in frames)
    first.save(path, save_all=True, append_images=rest, duration=[120] * len(rest) + [2000], loop=0)


def curves(log: list[dict], panels: dict[str, list[str]], path: Path, title: str) -> None:
    """Training curves, a panel per label of an axis: pale the raw column, bold its running mean, dashed its dev value."""
    figure, axes = plt.subplots(1, len(panels), figsize=(5.5 * len(panels), 4), squeeze=False, layout="constrained")
    step = np.array([int(row["step"]) for row in log])
    window = max(1, len(step) // 50)
    for axis, (label, columns) in zip(axes[0], panels.items()):
        shown = []
        for colour, column in zip(COLOURS, columns):
            raw = np.array([float(row[column]) for row in log])
            # A mean over `window` lines, over fewer at both ends.
            total = np.concatenate([[0], np.cumsum(raw)])
            low = np.maximum(np.arange(len(raw)) - window // 2, 0)
            high = np.minimum(low + window, len(raw))
            axis.plot(step, raw, color=colour, alpha=0.25, linewidth=0.7)
            axis.plot(step, (total[high] - total[low]) / (high - low), color=colour, linewidth=1.8, label=column)
            dev = [(int(row["step"]), float(row[f"dev_{column}"])) for row in log if row.get(f"dev_{column}")]
            if dev:
                axis.plot(*zip(*dev), "--", color="black", linewidth=1.3, label=f"{column}, dev set")
            shown += [*raw, *(value for _, value in dev)]
        # The first steps' spike would flatten the rest.
        low, high = np.percentile(shown, [0.5, 99.5])
        axis.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low) + 1e-9)
        axis.set(xlabel="training step", ylabel=label)
        axis.legend()
    figure.suptitle(f"{title}: training curves (pale: raw, bold: mean over {window} lines of the log)")
    figure.savefig(path)
    plt.close(figure)

