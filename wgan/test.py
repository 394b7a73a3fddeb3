"""Measures a WGAN trained by train.py and draws its figures."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # use this checkout's common/, not an installed one
from common import evaluation  # before TensorFlow, to silence its messages

# isort: split
import numpy as np

from common.evaluation import latent_space
from wgan.train import CURVES, RUNS, generate, sample_noise, to_uint8


def report(experiment, networks, images):
    """Draws the latent grids; measures the critic's scores of training, dev, test and generated images."""
    generator, critic = networks["generator"], networks["critic"]
    own = latent_space(
        experiment, images, lambda noise: to_uint8(generator, noise), lambda *args: sample_noise(generator, *args)
    )
    count = len(images.dev.images)
    sets = {name: part.images for name, part in images.splits().items()}
    # Spread out: MNIST is ordered by writer.
    sets["training"] = sets["training"][:: max(1, len(sets["training"]) // count)]
    return own | critic_numbers(critic, sets | {"generated": generate(generator, count, experiment.seed)})


def critic_numbers(critic, sets):
    """Returns the mean of f over "training", "dev", "test" and "generated" images, uint8 (n, H, W, C).

    Also returns how much of the critic's estimate is memorised, that is, present on training but not on dev images:
    (E[f(training)] - E[f(dev)]) / (E[f(training)] - E[f(generated)]), 0 if f scores all real images alike, with the
    standard error due to the numerator's two means.
    """
    scores = {name: score(critic, images) for name, images in sets.items()}
    means = {name: values.mean() for name, values in scores.items()}
    estimate = means["training"] - means["generated"]
    error = np.sqrt(sum(scores[name].var() / len(scores[name]) for name in ("training", "dev")))
    with np.errstate(divide="ignore", invalid="ignore"):  # the estimate of a dead critic is 0
        shares = {
            "critic's estimate that is memorised (share)": (means["training"] - means["dev"]) / estimate,
            "its standard error": error / abs(estimate),
        }
    return {f"critic on {name} images": float(mean) for name, mean in means.items()} | shares


def score(critic, images):
    """Returns the scores f(x) of uint8 images (n, H, W, C), float64 (n,)."""
    scaled = images.astype(np.float32) / 127.5 - 1.0
    return critic.predict(scaled, batch_size=500, verbose=0)[:, 0].astype(np.float64)


if __name__ == "__main__":
    evaluation.test(RUNS, ("generator", "critic"), generate, CURVES, report)
