"""VAE: variational autoencoder (Kingma & Welling 2014, arXiv:1312.6114), and beta-VAE.

An encoder turns an image x into a Gaussian q(z|x) over codes, a decoder turns a code z into an image.
Both learn to maximise the evidence lower bound (ELBO) on log p(x); its negative, in nats, is the loss
(eq. 3; the KL term in closed form, appendix B; z = mean + std * noise, section 2.4):

    L = E_q(z|x)[-log p(x|z)] + KL(q(z|x) || N(0, I)),    KL = 1/2 sum(mean^2 + var - 1 - log var)
"""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"
if __name__ == "__main__":
    from common import run  # before TensorFlow, whose start-up messages it keeps from the terminal

import keras
import tensorflow as tf
from keras import layers

# One row per experiment, the first is the default. `reported`: the figures of the reports.
RUNS = {
    "mnist_z100": dict(
        dataset="mnist", batch_size=32, steps=25_000, latent_dim=100, learning_rate=1e-3,
        reported={"A": {"FID": 25.411}, "E": {"FID": 26.21}},
    ),
    "mnist_z3": dict(
        dataset="mnist", batch_size=32, steps=25_000, latent_dim=3, learning_rate=1e-3,
        reported={"A": {"FID": 112.661}, "E": {"FID": 102.1}},
    ),
    "mnist_z10": dict(
        dataset="mnist", batch_size=32, steps=25_000, latent_dim=10, learning_rate=1e-3,
        reported={"A": {"FID": 46.601}, "E": {"FID": 95.49}},
    ),
    "mnist_z64": dict(
        dataset="mnist", batch_size=32, steps=25_000, latent_dim=64, learning_rate=1e-3,
        reported={"A": {"FID": 25.929}},
    ),
}  # fmt: skip

# The figure of the training curves: a panel per unit, the columns of log.csv in it.
CURVES = {"negative ELBO (nats)": ["loss"], "reconstruction loss (nats)": ["reconstruction"], "KL (nats)": ["kl"]}


def build_encoder(image_shape, latent_dim):
    """Images (batch, *image_shape) in [0, 1] to q's mean and log-variance, each (batch, latent_dim)."""
    x = images = keras.Input(image_shape, name="images")
    for channels in (32, 64, 128):  # 16x16, 8x8, 4x4
        x = layers.Conv2D(channels, 4, 2, "same", activation="relu")(x)
    x = layers.Flatten()(x)
    outputs = [layers.Dense(latent_dim, name=name)(x) for name in ("mean", "log_variance")]
    return keras.Model(images, outputs, name="encoder")


def build_decoder(image_shape, latent_dim):
    """Codes (batch, latent_dim) to the logits (batch, *image_shape) of the pixels."""
    network = [keras.Input([latent_dim], name="codes")]
    network += [layers.Dense(4 * 4 * 128, activation="relu"), layers.Reshape([4, 4, 128])]
    network += [layers.Conv2DTranspose(c, 4, 2, "same", activation="relu") for c in (64, 32)]  # 8x8, 16x16
    network += [layers.Conv2DTranspose(image_shape[-1], 4, 2, "same")]  # 32x32
    return keras.Sequential(network, name="decoder")


def reconstruction_loss(images, logits):
    """-log p(x|z) in nats, (batch,): each pixel a Bernoulli variable of this logit, summed over the image."""
    return tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(images, logits), [1, 2, 3])


def kl_divergence(mean, log_variance):
    """KL(N(mean, var) || N(0, I)) in nats, (batch,): summed over the latent dimensions."""
    return 0.5 * tf.reduce_sum(mean**2 + tf.exp(log_variance) - 1.0 - log_variance, 1)


class VAE(keras.Model):
    def __init__(self, encoder, decoder, seed):
        super().__init__()
        self.encoder, self.decoder, self.seed = encoder, decoder, seed
        self.means = [keras.metrics.Mean(name) for name in ("loss", "reconstruction", "kl")]
        self.built = True

    @property
    def metrics(self):
        return self.means

    def networks(self):
        """What is saved, by name; `generate` draws from the first."""
        codes = keras.Input(self.decoder.input_shape[1:], name="codes")
        decoder = keras.Sequential([codes, self.decoder, layers.Activation("sigmoid", name="sigmoid")], name="decoder")
        return {"decoder": decoder, "encoder": self.encoder}

    def losses(self, images, seed):
        """The loss and its two terms, means over the batch of uint8 `images` (batch, H, W, C)."""
        images = tf.cast(images, tf.float32) / 255.0
        mean, log_variance = self.encoder(images)
        codes = mean + tf.exp(0.5 * log_variance) * tf.random.stateless_normal(tf.shape(mean), seed)
        reconstruction = tf.reduce_mean(reconstruction_loss(images, self.decoder(codes)))
        kl = tf.reduce_mean(kl_divergence(mean, log_variance))
        return reconstruction + kl, reconstruction, kl

    def track(self, *values, weight=None):
        for mean, value in zip(self.means, values):
            mean.update_state(value, weight)
        return self.get_metrics_result()

    def train_step(self, images):
        # The noise is a function of seed, step and replica.
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        seed = tf.random.experimental.stateless_fold_in([self.seed, self.optimizer.iterations.value], replica)
        with tf.GradientTape() as tape:
            loss, *terms = self.losses(images, seed)
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return self.track(loss, *terms)

    def test_step(self, images):
        # The same noise at every evaluation: the dev curve moves with the weights alone.
        return self.track(*self.losses(images, [self.seed, -1]), weight=tf.shape(images)[0])


def build(image_shape, *, latent_dim, learning_rate, seed=0):
    """A compiled model for `fit` on uint8 images (batch, H, W, C) of `image_shape`, 32x32."""
    keras.utils.set_random_seed(seed)
    model = VAE(build_encoder(image_shape, latent_dim), build_decoder(image_shape, latent_dim), seed)
    model.compile(keras.optimizers.Adam(learning_rate))
    model.optimizer.build(model.trainable_variables)
    return model


def generate(decoder, count, seed):
    """Images uint8 (count, H, W, C) of `decoder`, from codes of N(0, I) that are a function of `seed`."""
    return to_uint8(decoder, tf.random.stateless_normal([count, decoder.input_shape[-1]], [seed, -2]))


def to_uint8(decoder, codes):
    """Images uint8 (n, H, W, C), the means of p(x|z), of codes (n, latent_dim)."""
    parts = [decoder(codes[i : i + 500]) for i in range(0, len(codes), 500)]
    return tf.cast(tf.round(tf.concat(parts, 0) * 255.0), tf.uint8).numpy()


if __name__ == "__main__":
    run.train(RUNS, build, generate, CURVES)
