"""Measures an ACGAN trained by train.py and draws its figures."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # use this checkout's common/, not an installed one
from common import classifier, evaluation, plots  # before TensorFlow, to silence its messages

# isort: split
import numpy as np
import tensorflow as tf

from acgan.train import CURVES, RUNS, encode, generate, sample_noise, to_uint8


def report(experiment, networks, images):
    """Draws each label with the same noise; measures how often it is recognised and what else changes with it."""
    generator, labels = networks["generator"], experiment.row["labels"]
    classes = max(2, generator.input_shape[1][-1])  # two classes may be encoded as one bit
    if labels == "class":
        noise, names = sample_noise(generator, 8, [experiment.seed, -3]), images.names
        rows = {f"noise {i + 1}": draw(generator, tf.repeat(z[None], classes, 0), range(classes))
                for i, z in enumerate(noise)}  # fmt: skip
        title = f"{experiment.title}: a column per requested digit"
    else:
        noise, names = sample_noise(generator, 10, [experiment.seed, -3]), None
        rows = {f"{name}{labels}": draw(generator, noise, [i] * 10) for i, name in enumerate(("not ", ""))}
        title = f"{experiment.title}: ten pairs, each from the same noise"
    plots.pairs(rows, experiment.folder / "pairs.png", title, names)

    others = [] if labels == "class" else [name for name in classifier.readable_attributes() if name != labels]

    def read(pictures):
        found = classifier.read_labels(pictures, experiment.row["dataset"])
        if labels == "class":
            return found, None
        return found[:, images.names.index(labels)], found[:, [images.names.index(name) for name in others]]

    real = read(images.dev.images)[0] == images.dev.targets(labels, images.names)
    own = label_numbers(generator, classes, read, others, experiment.seed)
    return own | {"label read off real dev images (share)": float(real.mean())}


def label_numbers(generator, classes, read, others, seed, count=2_000):
    """Measures how often an independent classifier recognises the requested label, and what else changes with it.

    Args:
        read: a function from uint8 images (n, H, W, C) to their labels (n,) and other attributes (n, k), or None.
        others: the names of the other attributes.

    Returns:
        The share of images whose requested label is recognised, and of pairs from the same noise in which both are.
        How much changes if only the label changes, and if only the noise does: the RMS difference in grey levels, and
        how often the other attributes are read differently, on average and for each.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    switched = (labels + rng.integers(1, classes, count)) % classes
    noise, other_noise = (sample_noise(generator, count, [seed, number]) for number in (-4, -5))
    first, label_moved = (draw(generator, noise, asked) for asked in (labels, switched))
    noise_moved = draw(generator, other_noise, labels)
    (read_first, rest), (read_switched, label_rest), (_, noise_rest) = map(read, (first, label_moved, noise_moved))
    right, right_switched = read_first == labels, read_switched == switched
    numbers = {
        "asked label read (share)": float(np.concatenate([right, right_switched]).mean()),
        "asked label read off both of a pair (share)": float((right & right_switched).mean()),
        "change by the label (grey levels)": difference(first, label_moved),
        "change by the noise (grey levels)": difference(first, noise_moved),
    }
    for cause, changed in (("label", label_rest), ("noise", noise_rest)):
        if others:
            shares = (rest != changed).mean(0)
            numbers[f"other attributes changed by the {cause} (share)"] = float(shares.mean())
            numbers[f"each changed by the {cause} (share)"] = dict(zip(others, shares.tolist()))
    return numbers


def draw(generator, noise, labels):
    """Returns uint8 images (n, H, W, C) for noise (n, latent_dim) and labels (n,)."""
    return to_uint8(generator, noise, encode(tf.constant(labels), generator))


def difference(a, b):
    """Returns the RMS difference between uint8 images, in grey levels."""
    return float(np.sqrt(np.mean((a.astype(np.float32) - b) ** 2)))


if __name__ == "__main__":
    evaluation.test(RUNS, ("generator",), generate, CURVES, report)
