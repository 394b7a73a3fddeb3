"""Measures a DCGAN that train.py left, and draws its figures."""

from common import plots, run  # before TensorFlow, whose start-up messages it keeps from the terminal

# isort: split
import tensorflow as tf

from dcgan.train import CURVES, RUNS, generate, to_uint8


def report(run, networks, images):
    """The latent grids."""
    generator = networks["generator"]
    corners = tf.random.stateless_normal([4, generator.input_shape[-1]], [run.seed, -3]).numpy()
    plots.latent_grids(lambda noise: to_uint8(generator, noise), corners, run.folder, run.title)
    return {}


if __name__ == "__main__":
    run.test(RUNS, ("generator",), generate, CURVES, report)
