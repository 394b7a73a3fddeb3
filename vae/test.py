"""Measures a VAE that train.py left, and draws its figures."""

from common import plots, run  # before TensorFlow, whose start-up messages it keeps from the terminal

# isort: split
import numpy as np
import tensorflow as tf
from sklearn.linear_model import LogisticRegression

from common.run import latent_space, read_log
from vae.train import CURVES, RUNS, bernoulli_loss, generate, kl_divergence, mean_squared_error, to_uint8

# Of CelebA's 40: those of the reports, then some that cover much of a picture.
ATTRIBUTES = ["Male", "Smiling", "Blond_Hair", "Black_Hair", "Eyeglasses", "Young"]


def report(run, networks, images):
    """Reconstructions, the latent grids, t-SNE; the ELBO or the MSE, linear probes of the codes, active units.

    And the dev set's curves of all rows that were trained on the same images, in one figure.
    """
    encoder, decoder = networks["encoder"], networks["decoder"]
    codes = {name: encode(encoder, part.images) for name, part in (("dev", images.dev), ("test", images.test))}

    shown = images.test.images[:10]
    rows = {"test image": shown, "reconstruction": to_uint8(decoder, codes["test"][0][:10])}
    plots.pairs(rows, run.folder / "reconstructions.png", f"{run.title}: decoded from the code's mean")
    panels = {
        "dev images": images.dev.images[:64],
        "reconstructions": to_uint8(decoder, codes["dev"][0][:64]),
        "samples": generate(decoder, 64, run.seed),
    }
    plots.pictures(panels, run.folder / "dev_sheet.png", run.title)
    del panels["dev images"]  # CelebA's may not be published
    plots.pictures(panels, run.folder / "decoded.png", run.title)

    logs = {name: read_log(folder) for name, folder in run.siblings(RUNS, images.source).items()}
    panels = {label: column for label, (column,) in CURVES.items() if column != "loss"}
    plots.compared(logs, panels, run.folder / "compared.png", "dev set")

    own = latent_space(run, images, lambda codes: to_uint8(decoder, codes), decoder.input_shape[-1])
    for name, part in (("dev", images.dev), ("test", images.test)):
        own |= numbers(decoder, name, part.images, *codes[name], run)
    # Burda et al. 2016, section 5.2: the units whose mean varies over the data by more than 0.01.
    own["active units"] = int((codes["test"][0].var(0) > 0.01).sum())

    panels = {}
    for labels in ["class"] if images.test.labels.ndim == 1 else ATTRIBUTES:
        known, asked = (part.targets(labels, images.names) for part in (images.dev, images.test))
        accuracy, chance = probe(codes["dev"][0], known, codes["test"][0], asked)
        own |= {f"linear probe, {labels} (accuracy)": accuracy, f"chance, {labels} (accuracy)": chance}
        names = images.names if labels == "class" else [f"not {labels}", labels]
        panels[f"{labels}: linear probe {accuracy:.1%}, chance {chance:.1%}"] = asked, names
    title = f"{run.title}: t-SNE of {{count:,}} test codes (means)"
    plots.tsne(codes["test"][0], panels, run.folder / "tsne.png", title)
    return own


def encode(encoder, images):
    """The means and log-variances (n, latent_dim) of uint8 images (n, H, W, C)."""
    starts = range(0, len(images), 250)
    parts = [encoder(images[i : i + 250].astype(np.float32) / 255.0, training=False) for i in starts]
    return [np.concatenate(output) for output in zip(*parts)]


def numbers(decoder, name, images, means, log_variances, run):
    """The KL in nats and the ELBO, one code drawn for each image; of colour images the MSE, decoded from the mean.

    (The log's dev_mse, by which the step is chosen, is of a code drawn for each image, as in training.)
    """
    kl = float(kl_divergence(means, log_variances).numpy().mean())
    logits = decoder.get_layer("decoder")  # the decoder as trained, before the sigmoid
    bernoulli = run.row["reconstruction"] == "bernoulli"
    loss, codes = mean_squared_error, means
    if bernoulli:
        noise = tf.random.stateless_normal(means.shape, [run.seed, -4])
        loss, codes = bernoulli_loss, means + tf.exp(0.5 * log_variances) * noise
    starts = range(0, len(images), 250)
    parts = [
        loss(images[i : i + 250].astype(np.float32) / 255.0, logits(codes[i : i + 250], training=False)) for i in starts
    ]
    error = float(np.concatenate(parts).mean())
    if not bernoulli:
        return {f"{name} MSE": error, f"{name} KL (nats)": kl}
    return {
        f"{name} ELBO (nats)": -error - kl,
        f"{name} reconstruction (nats)": error,
        f"{name} KL (nats)": kl,
    }


def probe(codes, labels, test_codes, test_labels):
    """The accuracy of a linear classifier of codes (n, latent_dim) on other codes; that of the most frequent label.

    A logistic regression with scikit-learn's penalty, C = 1; the codes are of about unit size, as the prior has them.
    """
    classifier = LogisticRegression(max_iter=10_000).fit(codes, labels)
    most_frequent = np.bincount(labels).argmax()
    return float(classifier.score(test_codes, test_labels)), float((test_labels == most_frequent).mean())


if __name__ == "__main__":
    run.test(RUNS, ("decoder", "encoder"), generate, CURVES, report)
