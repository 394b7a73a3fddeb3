"""DCGAN: deep convolutional generative adversarial network (Radford et al. 2016, arXiv:1511.06434).

A generator G turns noise into images; a discriminator D learns to tell them from real ones,
and G learns to be taken for real (Goodfellow et al. 2014, arXiv:1406.2661, Algorithm 1, with the
non-saturating generator loss of its section 3):

    L_D = -E_x[log D(x)] - E_z[log(1 - D(G(z)))]        L_G = -E_z[log D(G(z))]
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
    "mnist": dict(
        dataset="mnist", batch_size=64, steps=25_000, latent_dim=100, width=16, bias=False, learning_rate=2e-4,
        reported={"A": {"FID": 57.070}, "E": {"FID": 74.63}},
    ),
    "mnist_bias": dict(
        dataset="mnist", batch_size=64, steps=25_000, latent_dim=100, width=16, bias=True, learning_rate=2e-4,
        reported={"A": {"FID": "above 80"}},
    ),
}  # fmt: skip

# The figure of the training curves: a panel per unit, the columns of log.csv in it.
CURVES = {
    "loss (nats)": ["d_loss", "g_loss"],
    "D's output (probability of real)": ["d_real", "d_fake_before", "d_fake_after"],
}

normal = keras.initializers.RandomNormal


def batch_norm():
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, gamma_initializer=normal(1.0, 0.02))


def build_generator(image_shape, latent_dim, width, bias):
    """Noise (batch, latent_dim) of N(0, 1) to images (batch, *image_shape) in [-1, 1]."""

    def up(channels, padding="same"):
        return layers.Conv2DTranspose(channels, 4, 2, padding, use_bias=bias, kernel_initializer=normal(stddev=0.02))

    network = [keras.Input([latent_dim], name="noise"), layers.Reshape([1, 1, latent_dim])]
    network += [up(4 * width, "valid"), batch_norm(), layers.ReLU()]  # 4x4
    network += [up(2 * width), batch_norm(), layers.ReLU()]  # 8x8
    network += [up(width), batch_norm(), layers.ReLU()]  # 16x16
    network += [up(image_shape[-1]), layers.Activation("tanh")]  # 32x32
    return keras.Sequential(network, name="generator")


def build_discriminator(image_shape, width):
    """Images (batch, *image_shape) in [-1, 1] to the logit (batch, 1) of being real."""

    def down(channels, strides=2, padding="same"):
        return layers.Conv2D(channels, 4, strides, padding, use_bias=False, kernel_initializer=normal(stddev=0.02))

    network = [keras.Input(image_shape, name="images")]
    network += [down(width), layers.LeakyReLU(0.2)]  # 16x16
    network += [down(2 * width), batch_norm(), layers.LeakyReLU(0.2)]  # 8x8
    network += [down(4 * width), batch_norm(), layers.LeakyReLU(0.2)]  # 4x4
    network += [down(1, 1, "valid"), layers.Flatten()]
    return keras.Sequential(network, name="discriminator")


def bce(label, logits):
    """Mean cross-entropy in nats of `logits` against one label, 0 or 1."""
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(tf.fill(tf.shape(logits), label), logits))


class DCGAN(keras.Model):
    def __init__(self, generator, discriminator, learning_rate, seed):
        super().__init__()
        self.generator, self.discriminator, self.seed = generator, discriminator, seed
        self.g_optimizer = keras.optimizers.Adam(learning_rate, beta_1=0.5)
        self.d_optimizer = keras.optimizers.Adam(learning_rate, beta_1=0.5)
        self.g_optimizer.build(generator.trainable_variables)
        self.d_optimizer.build(discriminator.trainable_variables)
        self.means = [
            keras.metrics.Mean(name) for name in ("d_loss", "g_loss", "d_real", "d_fake_before", "d_fake_after")
        ]
        self.built = True

    @property
    def metrics(self):
        return self.means

    def networks(self):
        """What is saved, by name; `generate` draws from the first."""
        return {"generator": self.generator, "discriminator": self.discriminator}

    def draw(self):
        """Stateless seed, int32 (2,), of this step's noise: a function of seed, step and replica."""
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        return tf.random.experimental.stateless_fold_in([self.seed, self.d_optimizer.iterations.value], replica)

    def train_step(self, images):
        """One update of D, then one of G, on the same fakes. `images`: uint8 (batch, H, W, C)."""
        reals = tf.cast(images, tf.float32) / 127.5 - 1.0
        noise = tf.random.stateless_normal([tf.shape(reals)[0], self.generator.input_shape[-1]], self.draw())
        with tf.GradientTape() as g_tape:
            fakes = self.generator(noise, training=True)
            with tf.GradientTape() as d_tape:
                real_logits = self.discriminator(reals, training=True)
                fake_logits = self.discriminator(tf.stop_gradient(fakes), training=True)
                d_loss = bce(1.0, real_logits) + bce(0.0, fake_logits)
            with g_tape.stop_recording():
                variables = self.discriminator.trainable_variables
                self.d_optimizer.apply(d_tape.gradient(d_loss, variables), variables)
            after_logits = self.discriminator(fakes, training=True)
            g_loss = bce(1.0, after_logits)
        variables = self.generator.trainable_variables
        self.g_optimizer.apply(g_tape.gradient(g_loss, variables), variables)

        outputs = [tf.sigmoid(logits) for logits in (real_logits, fake_logits, after_logits)]
        for mean, value in zip(self.means, [d_loss, g_loss, *outputs]):
            mean.update_state(value)
        return self.get_metrics_result()


def build(image_shape, *, latent_dim, width, bias, learning_rate, seed=0):
    """A compiled model for `fit` on uint8 images (batch, H, W, C) of `image_shape`, 32x32."""
    keras.utils.set_random_seed(seed)
    model = DCGAN(
        build_generator(image_shape, latent_dim, width, bias),
        build_discriminator(image_shape, width),
        learning_rate,
        seed,
    )
    model.compile(optimizer=None)
    return model


def generate(generator, count, seed):
    """Images uint8 (count, H, W, C) of `generator`, from noise that is a function of `seed`."""
    noise = tf.random.stateless_normal([count, generator.input_shape[-1]], [seed, -2])
    return to_uint8(generator, noise)


def to_uint8(generator, noise):
    """Images uint8 (n, H, W, C) of noise (n, latent_dim), in inference mode."""
    parts = [generator(noise[i : i + 500], training=False) for i in range(0, len(noise), 500)]
    return tf.cast(tf.round((tf.concat(parts, 0) + 1.0) * 127.5), tf.uint8).numpy()


if __name__ == "__main__":
    run.train(RUNS, build, generate, CURVES)
