"""Measures a DCGAN trained by train.py and draws its figures."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # use this checkout's common/, not an installed one
from common import datasets, evaluation  # before TensorFlow, to silence its messages

# isort: split
import keras
import numpy as np
from sklearn.metrics import roc_auc_score

from common.checkpoint import read_log
from common.evaluation import latent_space
from dcgan.train import CURVES, RUNS, build, generate, sample_noise, to_uint8


def report(experiment, networks, images):
    """Draws the latent grids; measures how far D is from the equilibrium, where it can't tell real from generated."""
    generator, count = networks["generator"], min(9_600, len(images.train.images))
    own = latent_space(
        experiment, images, lambda noise: to_uint8(generator, noise), lambda *args: sample_noise(generator, *args)
    )
    drawn = generate(generator, count + len(images.test.images), experiment.seed + 1)
    fresh = build(drawn.shape[1:], **experiment.row["model"], seed=experiment.seed + 1).discriminator
    reals = images.train.images[:: len(images.train.images) // count][:count]  # spread out: MNIST is ordered by writer
    rate = experiment.row["model"]["learning_rate"]
    area = told_apart(fresh, (reals, drawn[:count]), (images.test.images, drawn[count:]), rate)
    return own | last_outputs(read_log(experiment.folder)) | {"fresh discriminator: area under the ROC curve": area}


def last_outputs(log):
    """Returns D's mean outputs over the last tenth of training: each 1/2 at equilibrium (Goodfellow et al. 2014).

    The outputs are on real images, and on generated images before and after D's update in the step; None if the log is
    empty.
    """
    last = [row for row in log if int(row["step"]) > 0.9 * int(log[-1]["step"])]
    return {f"last tenth: {name}": float(np.mean([float(row[name]) for row in last])) if last else None for name in
            ("d_real", "d_fake_before", "d_fake_after")}  # fmt: skip


def told_apart(discriminator, training, others, learning_rate):
    """Trains a discriminator against a fixed generator for one epoch, in batches of 64.

    Args:
        training, others: pairs of real and generated images, uint8 (n, H, W, C).

    Returns:
        The area under its ROC curve on `others`: how often it finds a real image more real than a generated one, 0.5
        if it can't tell them apart. Unlike its accuracy, this does not depend on a threshold, which batch norm's
        moving averages shift at random.
    """
    scaled = keras.Sequential([keras.layers.Rescaling(1 / 127.5, -1.0), discriminator])
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    scaled.compile(keras.optimizers.Adam(learning_rate, 0.5), loss, jit_compile=False)
    images, labels = np.concatenate(training), np.repeat([[1.0], [0.0]], [len(part) for part in training], axis=0)
    size = min(64, len(images))
    scaled.fit(datasets.batches(images, size, 0, 0, len(images) // size, labels), verbose=0)
    logits = [scaled.predict(part, batch_size=500, verbose=0)[:, 0] for part in others]
    return float(roc_auc_score(np.repeat([1, 0], [len(part) for part in others]), np.concatenate(logits)))


if __name__ == "__main__":
    evaluation.test(RUNS, ("generator",), generate, CURVES, report)
