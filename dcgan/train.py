"""DCGAN: deep convolutional generative adversarial network (Radford et al. 2016, arXiv:1511.06434).

A generator G turns noise into images; a discriminator D learns to tell them from real ones, and G learns to fool D
(Goodfellow et al. 2014, arXiv:1406.2661, Algorithm 1, with the non-saturating generator loss of its section 3):

    L_D = -E_x[log D(x)] - E_z[log(1 - D(G(z)))]        L_G = -E_z[log D(G(z))]
"""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"
if __name__ == "__main__":
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # use this checkout's common/, not an installed one
    from common.training import train  # before TensorFlow, to silence its messages

import keras
import tensorflow as tf
from keras import layers

# One row per experiment; the first is the default. A step is one update of D. `network`: the report whose networks are
# used. `reported`: the reports' numbers by source, under our names for the same measures. celeba_z128 (B) has the
# DCGAN paper's initial weights and beta_1.
RUNS = {
    "mnist_padded": dict(  # ours: like `mnist`, but the digits lack the interpolation pattern that lets D win
        dataset="mnist_padded", batch_size=64, steps=25_000,
        model=dict(
            network="A", latent_dim=100, width=16, bias=False, noise="normal", g_updates=1, learning_rate=2e-4,
        ),
        reported={},
    ),
    "mnist": dict(  # as A describes it; A actually ran mnist_wide
        dataset="mnist", batch_size=64, steps=25_000,
        model=dict(
            network="A", latent_dim=100, width=16, bias=False, noise="normal", g_updates=1, learning_rate=2e-4,
        ),
        reported={"A": {}},
    ),
    "mnist_bias": dict(  # as E ran it
        dataset="mnist", batch_size=64, steps=25_000,
        model=dict(network="A", latent_dim=100, width=16, bias=True, noise="normal", g_updates=1, learning_rate=2e-4),
        reported={"E, text": {"FID (Inception, 3,000 training images)": 74.63}},
    ),
    "mnist_wide": dict(  # as A ran it: its code swaps latent_dim and width
        dataset="mnist", batch_size=64, steps=25_000,
        model=dict(network="A", latent_dim=16, width=100, bias=False, noise="normal", g_updates=1, learning_rate=2e-4),
        reported={"A, text": {"FID (Inception, 3,000 training images)": 57.070}},
    ),
    "mnist_wide_bias": dict(
        dataset="mnist", batch_size=64, steps=25_000,
        model=dict(network="A", latent_dim=16, width=100, bias=True, noise="normal", g_updates=1, learning_rate=2e-4),
        reported={"A, text": {"FID (Inception, 3,000 training images)": "above 80"}},
    ),
    "celeba_z100": dict(  # 300 epochs of 40,000 images
        dataset="celeba", batch_size=64, steps=187_500,
        model=dict(network="C", latent_dim=100, width=32, bias=True, noise="uniform", g_updates=2, learning_rate=2e-4),
        reported={"C": {}},
    ),
    "celeba_z128": dict(
        dataset="celeba", batch_size=8, steps=55_000,
        model=dict(network="B", latent_dim=128, width=64, bias=False, noise="normal", g_updates=1, learning_rate=5e-4),
        reported={"B, figure": {"d_loss": {55_000: "0.5 to 0.8"}}},
    ),
}  # fmt: skip

# The panels of curves.png, one per unit, and the columns of log.csv in each.
CURVES = {
    "loss (nats)": ["d_loss", "g_loss"],
    "D's loss (nats)": ["d_loss_real", "d_loss_fake"],
    "D's output (probability of real)": ["d_real", "d_fake_before", "d_fake_after"],
}

normal = keras.initializers.RandomNormal


def batch_norm(**options):
    """Returns a batch norm layer with the momentum and epsilon of all reports."""
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, **options)


def up(channels, bias, padding="same"):
    """Returns a layer for G that doubles height and width or, with "valid" padding, turns 1x1 into 4x4."""
    return layers.Conv2DTranspose(channels, 4, 2, padding, use_bias=bias, kernel_initializer=normal(stddev=0.02))


def down(channels, strides=2, padding="same"):
    """Returns a layer for D in A's, B's and E's networks."""
    return layers.Conv2D(channels, 4, strides, padding, use_bias=False, kernel_initializer=normal(stddev=0.02))


def networks_a(noise, images, width, bias):
    """Builds A's and E's networks for 32x32 images. D's width is always 16."""
    x = layers.Reshape([1, 1, noise.shape[-1]])(noise)
    for channels, padding in ((4 * width, "valid"), (2 * width, "same"), (width, "same")):  # 4x4, 8x8, 16x16
        x = layers.ReLU()(batch_norm(gamma_initializer=normal(1.0, 0.02))(up(channels, bias, padding)(x)))
    x = up(images.shape[-1], bias)(x)
    y = layers.LeakyReLU(0.2)(down(16)(images))  # 16x16
    for channels in (32, 64):  # 8x8, 4x4
        y = layers.LeakyReLU(0.2)(batch_norm(gamma_initializer=normal(1.0, 0.02))(down(channels)(y)))
    return x, layers.Flatten()(down(1, 1, "valid")(y))


def networks_b(noise, images, width, bias):
    """Builds B's networks for 64x64 images. Of D's last kernel, only the inner 2x2 sees more than padding."""
    x = layers.Reshape([1, 1, noise.shape[-1]])(noise)
    for i in (3, 2, 1, 0):  # 4x4, 8x8, 16x16, 32x32
        x = up(width * 2**i, bias, "valid" if i == 3 else "same")(x)
        x = layers.LeakyReLU(0.2)(batch_norm()(x))
    x = up(images.shape[-1], bias)(x)
    y = images
    for i in range(3):  # 32x32, 16x16, 8x8
        y = layers.LeakyReLU(0.2)(batch_norm()(down(width * 2**i)(y)))
    y = down(width * 8, 4, "valid")(layers.ZeroPadding2D(1)(y))  # 2x2
    y = layers.LeakyReLU(0.2)(batch_norm()(y))
    return x, layers.Flatten()(down(1, 4, "valid")(layers.ZeroPadding2D(1)(y)))


def networks_c(noise, images, width, bias):
    """Builds C's networks for 64x64 images, which its D scales to [0, 1]."""
    x = layers.Dense(4 * 4 * 8 * width, use_bias=bias, kernel_initializer=normal(stddev=0.02))(noise)
    x = layers.Reshape([4, 4, 8 * width])(x)
    for channels in (4 * width, 2 * width, width, images.shape[-1]):  # 8x8, 16x16, 32x32, 64x64
        x = up(channels, bias)(layers.ReLU()(batch_norm()(x)))
    y = layers.Rescaling(0.5, 0.5)(images)
    for i in range(4):  # 32x32, 16x16, 8x8, 4x4
        kernel = keras.initializers.TruncatedNormal(stddev=0.02)
        y = layers.Conv2D(width * 2**i, 5, 2, "same", kernel_initializer=kernel)(y)
        y = layers.LeakyReLU(0.1)(batch_norm()(y))
    return x, layers.Dense(1, kernel_initializer=normal(stddev=0.02))(layers.Flatten()(y))


def build_networks(image_shape, network, latent_dim, width, bias, noise):
    """Builds G and D.

    Returns:
        G, from noise (batch, latent_dim) to images (batch, *image_shape) in [-1, 1], and D, from images to the logit
        (batch, 1) of being real.
    """
    name = {"normal": "noise", "uniform": "uniform_noise"}[noise]  # read by `sample_noise`
    noise, images = keras.Input([latent_dim], name=name), keras.Input(image_shape, name="images")
    x, y = {"A": networks_a, "B": networks_b, "C": networks_c}[network](noise, images, width, bias)
    # All outputs are float32, even in mixed precision.
    generator = keras.Model(noise, layers.Activation("tanh", dtype="float32")(x), name="generator")
    if generator.output_shape[1:] != tuple(image_shape):
        raise ValueError(f"network {network!r} is for images of {generator.output_shape[1:]}, not {image_shape}")
    return generator, keras.Model(images, layers.Activation("linear", dtype="float32")(y), name="discriminator")


def bce(label, logits):
    """Returns the mean binary cross-entropy of `logits` in nats; all have the same `label`, 0 or 1."""
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(tf.fill(tf.shape(logits), label), logits))


class DCGAN(keras.Model):
    """The generator and the discriminator, each with its own Adam."""

    def __init__(self, generator, discriminator, g_updates, learning_rate, seed):
        super().__init__()
        self.generator, self.discriminator, self.g_updates, self.seed = generator, discriminator, g_updates, seed
        self.g_optimizer = keras.optimizers.Adam(learning_rate, beta_1=0.5)
        self.d_optimizer = keras.optimizers.Adam(learning_rate, beta_1=0.5)
        self.g_optimizer.build(generator.trainable_variables)
        self.d_optimizer.build(discriminator.trainable_variables)
        names = ("d_loss", "g_loss", "d_loss_real", "d_loss_fake", "d_real", "d_fake_before", "d_fake_after")
        self.means = [keras.metrics.Mean(name) for name in names]
        self.built = True

    @property
    def metrics(self):
        return self.means

    def networks(self):
        """Returns the networks to save, by name; `generate` uses the first."""
        return {"generator": self.generator, "discriminator": self.discriminator}

    def step_seed(self):
        """Returns the stateless seed, int32 (2,), of this step's noise: a function of seed, step and replica."""
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        return tf.random.experimental.stateless_fold_in([self.seed, self.d_optimizer.iterations.value], replica)

    def train_step(self, images):
        """Updates D once, then G once on the same fakes, or several times, each on new ones.

        `images`: uint8 (batch, H, W, C). The logged g_loss is from G's last update; d_fake_after is D's output after
        its own update.
        """
        tf.debugging.assert_type(images, tf.uint8)  # floats would be scaled to a wrong range
        reals = tf.cast(images, tf.float32) / 127.5 - 1.0
        count = tf.shape(reals)[0]
        seeds = tf.unstack(tf.random.experimental.stateless_split(self.step_seed(), 1 + self.g_updates))
        noise = sample_noise(self.generator, count, seeds[0])
        with tf.GradientTape() as g_tape:
            fakes = self.generator(noise, training=True)
            with tf.GradientTape() as d_tape:
                real_logits = self.discriminator(reals, training=True)
                fake_logits = self.discriminator(tf.stop_gradient(fakes), training=True)
                d_loss_real, d_loss_fake = bce(1.0, real_logits), bce(0.0, fake_logits)
                d_loss = d_loss_real + d_loss_fake
            with g_tape.stop_recording():
                variables = self.discriminator.trainable_variables
                self.d_optimizer.apply(d_tape.gradient(d_loss, variables), variables)
            if self.g_updates > 1:
                fakes = self.generator(sample_noise(self.generator, count, seeds[1]), training=True)
            after_logits = self.discriminator(fakes, training=True)
            g_loss = bce(1.0, after_logits)
        variables = self.generator.trainable_variables
        self.g_optimizer.apply(g_tape.gradient(g_loss, variables), variables)
        for seed in seeds[2:]:
            noise = sample_noise(self.generator, count, seed)
            with tf.GradientTape() as g_tape:
                g_loss = bce(1.0, self.discriminator(self.generator(noise, training=True), training=True))
            self.g_optimizer.apply(g_tape.gradient(g_loss, variables), variables)

        outputs = [tf.sigmoid(logits) for logits in (real_logits, fake_logits, after_logits)]
        for mean, value in zip(self.means, [d_loss, g_loss, d_loss_real, d_loss_fake, *outputs]):
            mean.update_state(value)
        return self.get_metrics_result()


def sample_noise(generator, count, seed):
    """Returns noise (count, latent_dim) from U(-1, 1) or N(0, 1), as `generator` expects; a function of `seed`."""
    noise = generator.inputs[0]
    shape = [count, noise.shape[-1]]
    if noise.name == "uniform_noise":
        return tf.random.stateless_uniform(shape, seed, -1.0, 1.0)
    return tf.random.stateless_normal(shape, seed)


def build(image_shape, *, network, latent_dim, width, bias, noise, g_updates, learning_rate, seed=0):
    """Returns a compiled model for `fit` on uint8 images (batch, *image_shape).

    Args:
        image_shape: (height, width, channels), 32x32 for network "A", 64x64 for "B" and "C".
        width: channels of G's last and, in "B" and "C", of D's first hidden layer, doubling with each layer away from
            the image.
        bias: whether G's convolutions and dense layer have a bias.
        noise: "normal" for N(0, 1), "uniform" for U(-1, 1).
        g_updates: updates of G after each update of D, at least 1.
        seed: of the weights and the noise; also sets Python's, NumPy's and TensorFlow's global seeds.

    Raises:
        ValueError: The network is for images of another size.
    """
    keras.utils.set_random_seed(seed)
    generator, discriminator = build_networks(image_shape, network, latent_dim, width, bias, noise)
    model = DCGAN(generator, discriminator, g_updates, learning_rate, seed)
    model.compile(optimizer=None)
    return model


def generate(generator, count, seed):
    """Returns uint8 images (count, H, W, C) from `generator`; the noise is a function of `seed`."""
    return to_uint8(generator, sample_noise(generator, count, [seed, -2]))


def to_uint8(generator, noise):
    """Returns uint8 images (n, H, W, C) for noise (n, latent_dim), in inference mode."""
    parts = (generator(noise[i : i + 500], training=False) for i in range(0, len(noise), 500))
    return tf.concat([tf.cast(tf.round((part + 1.0) * 127.5), tf.uint8) for part in parts], 0).numpy()


if __name__ == "__main__":
    train(RUNS, build, generate, CURVES)
