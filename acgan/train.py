"""ACGAN: auxiliary-classifier generative adversarial network (Odena et al. 2017, arXiv:1610.09585).

The generator G is told a label c beside the noise; the discriminator D says of an image both whether it is real
and which label it has. With S the log-likelihood of the right source, C that of the right label, each a mean over
real and over generated images (section 3, eq. 2 and 3), D maximises S + C and G maximises C - S, the latter with
the non-saturating loss of Goodfellow et al. 2014, section 3:

    L_D = -E[log D(x)] - E[log(1 - D(G(z, c)))] - E[log P(c_x|x)] - E[log P(c|G(z, c))]
    L_G = -E[log D(G(z, c))] - E[log P(c|G(z, c))]
"""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"
if __name__ == "__main__":
    from common import run  # before TensorFlow, whose start-up messages it keeps from the terminal

import keras
import tensorflow as tf
from keras import layers

# One row per experiment, the first is the default. `labels`: an attribute's name, or "class". `reported`: the figures
# of the reports. B's networks are not known: as C's, and C's length, 300 epochs of 40,000 images. Widths ours.
RUNS = {
    "mnist": dict(
        dataset="mnist", labels="class", classes=10, batch_size=64, steps=25_000,
        latent_dim=100, width=16, slope=0.2, learning_rate=2e-4, reported={},
    ),
    "celeba_smiling": dict(
        dataset="celeba", labels="Smiling", classes=2, batch_size=64, steps=187_500,
        latent_dim=100, width=32, slope=0.1, learning_rate=2e-4, reported={"C": {}},
    ),
    "celeba_male": dict(
        dataset="celeba", labels="Male", classes=2, batch_size=64, steps=187_500,
        latent_dim=100, width=32, slope=0.1, learning_rate=2e-4, reported={"B": {}},
    ),
}  # fmt: skip

# The figure of the training curves: a panel per unit, the columns of log.csv in it.
CURVES = {
    "loss (nats)": ["d_loss", "g_loss"],
    "D's loss on the source (nats)": ["source_real", "source_fake"],
    "D's loss on the label (nats)": ["label_real", "label_fake"],
}

normal = keras.initializers.RandomNormal


def batch_norm():
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, gamma_initializer=normal(1.0, 0.02))


def build_generator(image_shape, latent_dim, classes, width, slope):
    """Noise (batch, latent_dim) of N(0, 1) and labels to images (batch, *image_shape) in [-1, 1].

    Labels are (batch, classes), one-hot, or of two classes a bit (batch, 1): C's attribute.
    """
    ups = (image_shape[0] // 4).bit_length() - 1  # from 4x4
    channels = [width * 2**i for i in reversed(range(ups))]
    noise = keras.Input([latent_dim], name="noise")
    label = keras.Input([1 if classes == 2 else classes], name="label")
    x = layers.Concatenate()([noise, label])
    x = layers.Dense(4 * 4 * channels[0], use_bias=False, kernel_initializer=normal(stddev=0.02))(x)
    x = layers.Reshape([4, 4, channels[0]])(x)
    for c in [*channels[1:], image_shape[-1]]:
        x = layers.LeakyReLU(slope)(batch_norm()(x))
        x = layers.Conv2DTranspose(c, 4, 2, "same", use_bias=False, kernel_initializer=normal(stddev=0.02))(x)
    return keras.Model([noise, label], layers.Activation("tanh", dtype="float32")(x), name="generator")


def build_discriminator(image_shape, classes, width, slope):
    """Images (batch, *image_shape) in [-1, 1] to the logit (batch, 1) of being real and the label's logits."""
    x = images = keras.Input(image_shape, name="images")
    for i in range((image_shape[0] // 4).bit_length() - 1):  # to 4x4
        x = layers.Conv2D(width * 2**i, 4, 2, "same", use_bias=False, kernel_initializer=normal(stddev=0.02))(x)
        x = layers.LeakyReLU(slope)(batch_norm()(x) if i else x)
    x = layers.Flatten()(x)
    classes = 1 if classes == 2 else classes
    # Float32 also in mixed precision.
    source = layers.Dense(1, kernel_initializer=normal(stddev=0.02), dtype="float32", name="source")(x)
    label = layers.Dense(classes, kernel_initializer=normal(stddev=0.02), dtype="float32", name="label")(x)
    return keras.Model(images, [source, label], name="discriminator")


def bce(label, logits):
    """Mean cross-entropy in nats of `logits` against one label, 0 or 1."""
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(tf.fill(tf.shape(logits), label), logits))


def encode(labels, generator):
    """Labels int (batch,) as the generator takes them: bits (batch, 1), or one-hot (batch, classes)."""
    size = generator.input_shape[1][-1]
    return tf.cast(labels[:, None], tf.float32) if size == 1 else tf.one_hot(labels, size)


def label_loss(labels, logits):
    """-log P(c|x) in nats, a mean over the batch, of encoded labels: a Bernoulli variable's, or a categorical one's."""
    if logits.shape[-1] == 1:
        return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels, logits))
    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(labels, logits))


class ACGAN(keras.Model):
    def __init__(self, generator, discriminator, learning_rate, seed):
        super().__init__()
        self.generator, self.discriminator, self.seed = generator, discriminator, seed
        self.g_optimizer = keras.optimizers.Adam(learning_rate, beta_1=0.5)
        self.d_optimizer = keras.optimizers.Adam(learning_rate, beta_1=0.5)
        self.g_optimizer.build(generator.trainable_variables)
        self.d_optimizer.build(discriminator.trainable_variables)
        names = ("d_loss", "g_loss", "source_real", "source_fake", "label_real", "label_fake")
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

    def train_step(self, batch):
        """One update of D, then one of G, on the same fakes. `batch`: uint8 images (n, H, W, C), their labels (n,)."""
        images, labels = batch
        reals = tf.cast(images, tf.float32) / 127.5 - 1.0
        labels = encode(tf.cast(labels, tf.int32), self.generator)
        noise, asked = draw_inputs(self.generator, tf.shape(images)[0], self.draw())
        with tf.GradientTape() as g_tape:
            fakes = self.generator([noise, asked], training=True)
            with tf.GradientTape() as d_tape:
                real_logits, real_labels = self.discriminator(reals, training=True)
                fake_logits, fake_labels = self.discriminator(tf.stop_gradient(fakes), training=True)
                source_real, source_fake = bce(1.0, real_logits), bce(0.0, fake_logits)
                label_real, label_fake = label_loss(labels, real_labels), label_loss(asked, fake_labels)
                d_loss = source_real + source_fake + label_real + label_fake
            with g_tape.stop_recording():
                variables = self.discriminator.trainable_variables
                self.d_optimizer.apply(d_tape.gradient(d_loss, variables), variables)
            fake_logits, fake_labels = self.discriminator(fakes, training=True)
            g_loss = bce(1.0, fake_logits) + label_loss(asked, fake_labels)
        variables = self.generator.trainable_variables
        self.g_optimizer.apply(g_tape.gradient(g_loss, variables), variables)

        for mean, value in zip(self.means, [d_loss, g_loss, source_real, source_fake, label_real, label_fake]):
            mean.update_state(value)
        return self.get_metrics_result()


def draw_inputs(generator, count, seed):
    """Noise (count, latent_dim) of N(0, 1) and encoded labels, each class as likely, that are a function of `seed`."""
    classes = max(2, generator.input_shape[1][-1])  # of two the label is one bit
    labels = tf.random.stateless_uniform([count], seed, 0, classes, tf.int32)
    # The labels' seed is not the noise's, whose low bits they would be.
    noise_seed = tf.random.experimental.stateless_fold_in(seed, 1)
    noise = tf.random.stateless_normal([count, generator.input_shape[0][-1]], noise_seed)
    return noise, encode(labels, generator)


def build(image_shape, *, classes, latent_dim, width, slope, learning_rate, seed=0):
    """A compiled model for `fit` on uint8 images (batch, H, W, C) of `image_shape` and labels (batch,) below `classes`.

    Args:
        image_shape: square, the side a power of two from 8 on.
        classes: 10 for digits; of 2 the label is one bit, an attribute.
        width: channels of G's last and of D's first hidden layer; each one further in has twice as many.
        slope: of the LeakyReLUs.
    """
    keras.utils.set_random_seed(seed)
    generator = build_generator(image_shape, latent_dim, classes, width, slope)
    discriminator = build_discriminator(image_shape, classes, width, slope)
    model = ACGAN(generator, discriminator, learning_rate, seed)
    model.compile(optimizer=None)
    return model


def generate(generator, count, seed):
    """Images uint8 (count, H, W, C) of `generator`, from noise and labels that are a function of `seed`."""
    return to_uint8(generator, *draw_inputs(generator, count, [seed, -2]))


def to_uint8(generator, noise, labels):
    """Images uint8 (n, H, W, C) of noise (n, latent_dim) and encoded labels, in inference mode."""
    parts = [generator([noise[i : i + 500], labels[i : i + 500]], training=False) for i in range(0, len(noise), 500)]
    return tf.cast(tf.round((tf.concat(parts, 0) + 1.0) * 127.5), tf.uint8).numpy()


if __name__ == "__main__":
    run.train(RUNS, build, generate, CURVES)
