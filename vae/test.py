"""Measures a VAE that train.py left, and draws its figures."""

from common import plots, run  # before TensorFlow, whose start-up messages it keeps from the terminal

# isort: split
import numpy as np
import tensorflow as tf

from vae.train import CURVES, RUNS, generate, kl_divergence, reconstruction_loss, to_uint8


def report(run, networks, images):
    """Reconstructions, the latent grids, t-SNE; the ELBO of the dev and of the test images, active latent units."""
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
    corners = tf.random.stateless_normal([4, decoder.input_shape[-1]], [run.seed, -3]).numpy()
    plots.latent_grids(lambda codes: to_uint8(decoder, codes), corners, run.folder, run.title)
    count = min(2_500, len(images.test.images))
    means, labels = codes["test"][0][:count], images.test.labels[:count]
    title = f"{run.title}: t-SNE of {count:,} test codes (means)"
    plots.tsne(means, labels, [str(digit) for digit in range(10)], run.folder / "tsne.png", title)

    own = {}
    for name, part in (("dev", images.dev), ("test", images.test)):
        reconstruction, kl = terms(decoder, part.images, *codes[name], run.seed)
        own |= {f"{name} ELBO (nats)": -reconstruction - kl, f"{name} reconstruction (nats)": reconstruction}
        own |= {f"{name} KL (nats)": kl}
    # Burda et al. 2016, section 5.2: the units whose mean varies over the data by more than 0.01.
    return own | {"active units": int((codes["test"][0].var(0) > 0.01).sum())}


def encode(encoder, images):
    """The means and log-variances (n, latent_dim) of uint8 images (n, H, W, C)."""
    parts = [encoder(images[i : i + 500].astype(np.float32) / 255.0) for i in range(0, len(images), 500)]
    return [np.concatenate(output) for output in zip(*parts)]


def terms(decoder, images, means, log_variances, seed):
    """The reconstruction loss and the KL in nats, means over the images, one code drawn for each."""
    noise = tf.random.stateless_normal(means.shape, [seed, -4])
    codes = means + tf.exp(0.5 * log_variances) * noise
    logits = decoder.get_layer("decoder")  # the decoder as trained, before the sigmoid
    losses = [
        reconstruction_loss(images[i : i + 500].astype(np.float32) / 255.0, logits(codes[i : i + 500]))
        for i in range(0, len(images), 500)
    ]
    return float(np.concatenate(losses).mean()), float(kl_divergence(means, log_variances).numpy().mean())


if __name__ == "__main__":
    run.test(RUNS, "decoder", generate, CURVES, report)
