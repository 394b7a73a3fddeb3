"""Measures a WGAN that train.py left, and draws its figures."""

from common import plots, run  # before TensorFlow, whose start-up messages it keeps from the terminal

# isort: split
import numpy as np
import tensorflow as tf

from wgan.train import CURVES, RUNS, generate, to_uint8


def report(run, networks, images):
    """The latent grids; what the critic makes of images it was trained on, of others, and of generated ones."""
    generator, critic = networks["generator"], networks["critic"]
    corners = tf.random.stateless_normal([4, generator.input_shape[-1]], [run.seed, -3]).numpy()
    plots.latent_grids(lambda noise: to_uint8(generator, noise), corners, run.folder, run.title)
    count = len(images.dev.images)
    sets = {name: part.images[:count] for name, part in images.splits().items()}
    return critic_numbers(critic, sets | {"generated": generate(generator, count, run.seed)})


def critic_numbers(critic, sets):
    """The mean of f over "training", "dev", "test" and "generated" images, uint8 (n, H, W, C).

    And how far it has learnt its training images by heart: the part of its estimate on them that test images have not,
    (E[f(training)] - E[f(test)]) / (E[f(training)] - E[f(generated)]); 0 if it tells all real images alike.
    """
    means = {name: mean_score(critic, images) for name, images in sets.items()}
    memorised = (means["training"] - means["test"]) / (means["training"] - means["generated"])
    numbers = {f"critic on {name} images": mean for name, mean in means.items()}
    return numbers | {"critic's estimate that is memorised (share)": memorised}


def mean_score(critic, images):
    starts = range(0, len(images), 500)
    scores = [critic(images[i : i + 500].astype(np.float32) / 127.5 - 1.0, training=False) for i in starts]
    return float(np.concatenate(scores).mean())


if __name__ == "__main__":
    run.test(RUNS, ("generator", "critic"), generate, CURVES, report)
