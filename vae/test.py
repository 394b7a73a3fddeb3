"""Measures a VAE trained by train.py and draws its figures."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # use this checkout's common/, not an installed one
from common import evaluation, plots  # before TensorFlow, to silence its messages

# isort: split
import keras
import numpy as np
import tensorflow as tf
from sklearn.linear_model import LogisticRegression

from common.evaluation import latent_path
from vae.train import CURVES, RUNS, bernoulli_loss, generate, kl_divergence, mean_squared_error, to_uint8

# Of CelebA's 40: the reports' first, then some that cover much of the image.
ATTRIBUTES = ["Male", "Smiling", "Blond_Hair", "Black_Hair", "Eyeglasses", "Young"]


def report(experiment, networks, images):
    """Draws reconstructions, latent grids and t-SNE.

    Returns:
        The ELBO or MSE, the latent path, the active units and the accuracies of linear probes of the codes, by name.
    """
    encoder, decoder = networks["encoder"], networks["decoder"]
    codes = {name: encode(encoder, part.images) for name, part in (("dev", images.dev), ("test", images.test))}

    shown = images.test.images[:10]
    rows = {"test image": shown, "reconstruction": to_uint8(decoder, codes["test"][0][:10])}
    plots.pairs(rows, experiment.folder / "reconstructions.png", f"{experiment.title}: decoded from the code's mean")
    panels = {
        "dev images": images.dev.images[:64],
        "reconstructions": to_uint8(decoder, codes["dev"][0][:64]),
        "samples": generate(decoder, 64, experiment.seed),
    }
    plots.pictures(panels, experiment.folder / "dev_sheet.png", experiment.title)
    del panels["dev images"]  # CelebA's images may not be published
    plots.pictures(panels, experiment.folder / "decoded.png", experiment.title)

    def draw(codes):
        return to_uint8(decoder, codes)

    corners, beyond = codes["test"][0][:4], np.linspace(-0.5, 1.5, 29)
    plots.latent_grids(draw, corners, beyond, experiment.folder, experiment.title, "the codes of four test images")
    latent_dim = decoder.input_shape[-1]
    own = latent_path(experiment, images, draw, lambda n, seed: tf.random.stateless_normal([n, latent_dim], seed))
    for name, part in (("dev", images.dev), ("test", images.test)):
        own |= numbers(decoder, name, part.images, *codes[name], experiment)
    if experiment.row["model"]["network"] == "A":
        inner = decoder.get_layer("decoder")
        drawn = sample_codes(*codes["test"], experiment.seed)
        dense = next(layer for layer in encoder.layers if isinstance(layer, keras.layers.Dense))
        pixels = images.test.images.astype(np.float32) / 255.0
        own["units alive in the encoder's dense layer"] = units_alive(encoder, dense, pixels)
        own["units alive in the decoder's first layer"] = units_alive(inner, inner.get_layer("hidden"), drawn)
    own["active units"] = active_units(codes["test"][0])

    panels = {}
    for labels in ["class"] if images.test.labels.ndim == 1 else ATTRIBUTES:
        known, asked = (part.targets(labels, images.names) for part in (images.dev, images.test))
        accuracy, chance = probe(codes["dev"][0], known, codes["test"][0], asked)
        own |= {f"linear probe, {labels} (accuracy)": accuracy, f"chance, {labels} (accuracy)": chance}
        names = images.names if labels == "class" else [f"not {labels}", labels]
        panels[f"{labels}: linear probe {accuracy:.1%}, chance {chance:.1%}"] = asked, names
    title = f"{experiment.title}: t-SNE of {{count:,}} test codes (means)"
    plots.tsne(codes["test"][0], panels, experiment.folder / "tsne.png", title)
    return own


def encode(encoder, images):
    """Returns the means and log-variances, each (n, latent_dim), of uint8 images (n, H, W, C)."""
    return encoder.predict(images.astype(np.float32) / 255.0, batch_size=250, verbose=0)


def sample_codes(means, log_variances, seed):
    """Returns a code from q(z|x) for each image, (n, latent_dim); a function of `seed`."""
    return means + tf.exp(0.5 * log_variances) * tf.random.stateless_normal(means.shape, [seed, -4])


def numbers(decoder, name, images, means, log_variances, experiment):
    """Returns the KL in nats, and the ELBO or MSE with a sampled code per image; the MSE also with the codes' means.

    The MSE is that of the saved decoder's pixels. In the log, those of network "D" are not yet clipped to [0, 1].
    """
    kl = float(kl_divergence(means, log_variances).numpy().mean())
    codes = sample_codes(means, log_variances, experiment.seed)
    if experiment.row["model"]["reconstruction"] == "bernoulli":
        logits = decoder.get_layer("decoder")  # the decoder as trained, before the sigmoid
        error = mean_loss(bernoulli_loss, logits, images, codes)
        return {
            f"{name} ELBO (nats)": -error - kl,
            f"{name} reconstruction (nats)": error,
            f"{name} KL (nats)": kl,
        }
    return {
        f"{name} MSE": mean_loss(mean_squared_error, decoder, images, means),
        f"{name} MSE, sampled codes": mean_loss(mean_squared_error, decoder, images, codes),
        f"{name} KL (nats)": kl,
    }


def mean_loss(loss, decoder, images, codes):
    """Returns the mean `loss` between uint8 images (n, H, W, C) and `decoder`'s outputs for codes (n, latent_dim)."""
    decoded = decoder.predict(codes, batch_size=250, verbose=0)
    return float(loss(images.astype(np.float32) / 255.0, decoded).numpy().mean())


def active_units(means):
    """Returns how many codes' means (n, latent_dim) vary by more than 0.01 over the data (Burda et al. 2016, 5.2)."""
    return int((means.var(0) > 0.01).sum())


def units_alive(network, layer, inputs):
    """Returns how many units of a hidden ReLU layer are above 0 for at least one of the inputs (n, ...)."""
    hidden = keras.Model(network.inputs, layer.output)
    return int((hidden.predict(inputs, batch_size=250, verbose=0) > 0).any(0).sum())


def probe(codes, labels, test_codes, test_labels):
    """Returns the test accuracy of a linear classifier of codes (n, latent_dim), and that of the most frequent label.

    The classifier is a logistic regression with scikit-learn's default penalty, C = 1; thanks to the prior, the active
    dimensions have about unit scale.
    """
    classifier = LogisticRegression(max_iter=10_000).fit(codes, labels)
    most_frequent = np.bincount(labels).argmax()
    return float(classifier.score(test_codes, test_labels)), float((test_labels == most_frequent).mean())


if __name__ == "__main__":
    evaluation.test(RUNS, ("decoder", "encoder"), generate, CURVES, report)
