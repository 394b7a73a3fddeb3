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

# One row per experiment, the first is the default. A step is one update of D. `g_slope`, `d_slope`: of G's and D's
# LeakyReLU. `norm_first`: whether D's first layer has batch norm. `reported`: the figures of the reports. Ours are the
# batch size and all of Adam but its rate in celeba_z128 (B), the widths and G's slope in celeba_z100 (C), and in both
# the initial weights, which are the paper's.
RUNS = {
    "mnist": dict(
        dataset="mnist", batch_size=64, steps=25_000, latent_dim=100, width=16, bias=False, g_slope=0.0, d_slope=0.2,
        last_stride=2, norm_first=False, g_updates=1, learning_rate=2e-4,
        reported={"A": {"FID": 57.070}, "E": {"FID": 74.63}},
    ),
    "mnist_bias": dict(
        dataset="mnist", batch_size=64, steps=25_000, latent_dim=100, width=16, bias=True, g_slope=0.0, d_slope=0.2,
        last_stride=2, norm_first=False, g_updates=1, learning_rate=2e-4, reported={"A": {"FID": "above 80"}},
    ),
    "celeba_z100": dict(  # 300 epochs of 40,000 images
        dataset="celeba", batch_size=64, steps=187_500, latent_dim=100, width=32, bias=False, g_slope=0.1, d_slope=0.1,
        last_stride=2, norm_first=False, g_updates=2, learning_rate=2e-4, reported={"C": {}},
    ),
    "celeba_z128": dict(
        dataset="celeba", batch_size=64, steps=55_000, latent_dim=128, width=64, bias=False, g_slope=0.2, d_slope=0.2,
        last_stride=4, norm_first=True, g_updates=1, learning_rate=5e-4, reported={"B": {}},
    ),
}  # fmt: skip

# The figure of the training curves: a panel per unit, the columns of log.csv in it.
CURVES = {
    "loss (nats)": ["d_loss", "g_loss"],
    "D's loss (nats)": ["d_loss_real", "d_loss_fake"],
    "D's output (probability of real)": ["d_real", "d_fake_before", "d_fake_after"],
}

normal = keras.initializers.RandomNormal


def batch_norm():
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, gamma_initializer=normal(1.0, 0.02))


def build_generator(image_shape, latent_dim, width, bias, slope):
    """Noise (batch, latent_dim) of N(0, 1) to images (batch, *image_shape) in [-1, 1].

    The first transposed convolution, of a 1x1 map, is C's dense layer to 4x4.
    """

    def up(channels, padding="same"):
        return layers.Conv2DTranspose(channels, 4, 2, padding, use_bias=bias, kernel_initializer=normal(stddev=0.02))

    ups = (image_shape[0] // 4).bit_length() - 1  # from 4x4
    network = [keras.Input([latent_dim], name="noise"), layers.Reshape([1, 1, latent_dim])]
    for i in reversed(range(ups)):
        network += [up(width * 2**i, "valid" if i == ups - 1 else "same"), batch_norm(), layers.LeakyReLU(slope)]
    network += [up(image_shape[-1]), layers.Activation("tanh", dtype="float32")]  # also in mixed precision
    return keras.Sequential(network, name="generator")


def build_discriminator(image_shape, width, slope, last_stride, norm_first):
    """Images (batch, *image_shape) in [-1, 1] to the logit (batch, 1) of being real.

    The last convolution, to a 1x1 map, is C's dense layer, without its bias: ours.
    """

    def down(channels, size=4, strides=2, padding="same"):
        return layers.Conv2D(channels, size, strides, padding, use_bias=False, kernel_initializer=normal(stddev=0.02))

    downs = (image_shape[0] // 4).bit_length() - 1
    network = [keras.Input(image_shape, name="images")]
    for i in range(downs):
        network += [down(width * 2**i, strides=last_stride if i == downs - 1 else 2)]
        network += [batch_norm()] if i or norm_first else []
        network += [layers.LeakyReLU(slope)]
    network += [down(1, 8 // last_stride, 1, "valid"), layers.Flatten(dtype="float32")]  # of 4x4, or of 2x2
    return keras.Sequential(network, name="discriminator")


def bce(label, logits):
    """Mean cross-entropy in nats of `logits` against one label, 0 or 1."""
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(tf.fill(tf.shape(logits), label), logits))


class DCGAN(keras.Model):
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
        """What is saved, by name; `generate` draws from the first."""
        return {"generator": self.generator, "discriminator": self.discriminator}

    def draw(self):
        """Stateless seed, int32 (2,), of this step's noise: a function of seed, step and replica."""
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        return tf.random.experimental.stateless_fold_in([self.seed, self.d_optimizer.iterations.value], replica)

    def train_step(self, images):
        """One update of D, then one of G on the same fakes, or more on fakes of their own.

        `images`: uint8 (batch, H, W, C). Logged are the last update's g_loss and D's output after its own update.
        """
        reals = tf.cast(images, tf.float32) / 127.5 - 1.0
        seed, shape = self.draw(), [tf.shape(reals)[0], self.generator.input_shape[-1]]
        noise = tf.random.stateless_normal(shape, seed)
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
            after_logits = self.discriminator(fakes, training=True)
            g_loss = bce(1.0, after_logits)
        variables = self.generator.trainable_variables
        self.g_optimizer.apply(g_tape.gradient(g_loss, variables), variables)
        for i in range(1, self.g_updates):
            noise = tf.random.stateless_normal(shape, tf.random.experimental.stateless_fold_in(seed, i))
            with tf.GradientTape() as g_tape:
                g_loss = bce(1.0, self.discriminator(self.generator(noise, training=True), training=True))
            self.g_optimizer.apply(g_tape.gradient(g_loss, variables), variables)

        outputs = [tf.sigmoid(logits) for logits in (real_logits, fake_logits, after_logits)]
        for mean, value in zip(self.means, [d_loss, g_loss, d_loss_real, d_loss_fake, *outputs]):
            mean.update_state(value)
        return self.get_metrics_result()


def build(
    image_shape, *, latent_dim, width, bias, g_slope, d_slope, last_stride, norm_first, g_updates, learning_rate, seed=0
):
    """A compiled model for `fit` on uint8 images (batch, H, W, C) of `image_shape`.

    Args:
        image_shape: square, the side a power of two from 16 on.
        width: channels of G's last and of D's first hidden layer; each one further in has twice as many.
        last_stride: of D's last hidden layer, 2 or 4.
        g_updates: updates of G after each of D.
    """
    keras.utils.set_random_seed(seed)
    generator = build_generator(image_shape, latent_dim, width, bias, g_slope)
    discriminator = build_discriminator(image_shape, width, d_slope, last_stride, norm_first)
    model = DCGAN(generator, discriminator, g_updates, learning_rate, seed)
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
