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
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this folder's common, whatever is installed
    from common.training import train  # before TensorFlow, whose messages it keeps quiet

import keras
import tensorflow as tf
from keras import layers

# One row per experiment, the first is the default. `labels`: an attribute's name, or "class". `network`: that of the
# report of this name. `reported`: the figures of the reports. The row mnist_padded is ours. D knows
# resized digits by their interpolation and wins; G then ends with one picture a label.
RUNS = {
    "mnist_padded": dict(
        dataset="mnist_padded", labels="class", batch_size=64, steps=25_000,
        model=dict(network="ours", latent_dim=100, label_dim=10, width=16, noise="normal", learning_rate=2e-4),
        reported={},
    ),
    "celeba_smiling": dict(  # 300 epochs of 40,000 images
        dataset="celeba", labels="Smiling", batch_size=64, steps=187_500,
        model=dict(network="C", latent_dim=100, label_dim=1, width=32, noise="uniform", learning_rate=2e-4),
        reported={"C": {}},
    ),
    "celeba_male": dict(  # 23 epochs of 40,000 images
        dataset="celeba", labels="Male", batch_size=8, steps=115_000,
        model=dict(network="B", latent_dim=98, label_dim=2, width=64, noise="normal", learning_rate=2e-4),
        reported={"B": {}},
    ),
}  # fmt: skip

# The figure of the training curves: a panel per unit, the columns of log.csv in it.
CURVES = {
    "loss (nats)": ["d_loss", "g_loss"],
    "D's loss on the source (nats)": ["source_real", "source_fake"],
    "D's loss on the label (nats)": ["label_real", "label_fake"],
    "label read by D (share)": ["accuracy_real", "accuracy_fake"],
}

normal = keras.initializers.RandomNormal


def batch_norm(**options):
    """Batch norm with the momentum and epsilon of all reports."""
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, **options)


def dense(units, bias=True, **options):
    """A dense layer with initial weights of N(0, 0.02)."""
    return layers.Dense(units, use_bias=bias, kernel_initializer=normal(stddev=0.02), **options)


def up(channels, bias, padding="same"):
    """Of G: doubles the sides; with "valid" makes 4x4 of 1x1."""
    return layers.Conv2DTranspose(channels, 4, 2, padding, use_bias=bias, kernel_initializer=normal(stddev=0.02))


def down(channels, strides=2, padding="same"):
    """Of D, in B's networks and ours."""
    return layers.Conv2D(channels, 4, strides, padding, use_bias=False, kernel_initializer=normal(stddev=0.02))


def networks_ours(codes, images, width):
    """Of 32x32 images."""
    x = layers.Reshape([4, 4, 4 * width])(dense(4 * 4 * 4 * width, bias=False)(codes))
    for channels in (2 * width, width, images.shape[-1]):  # 8x8, 16x16, 32x32
        x = layers.LeakyReLU(0.2)(batch_norm(gamma_initializer=normal(1.0, 0.02))(x))
        x = up(channels, bias=False)(x)
    y = layers.LeakyReLU(0.2)(down(width)(images))  # 16x16
    for channels in (2 * width, 4 * width):  # 8x8, 4x4
        y = layers.LeakyReLU(0.2)(batch_norm(gamma_initializer=normal(1.0, 0.02))(down(channels)(y)))
    return x, layers.Flatten()(y)


def networks_b(codes, images, width):
    """B's, of 64x64 images."""
    x = layers.Reshape([1, 1, codes.shape[-1]])(codes)
    for i in (3, 2, 1, 0):  # 4x4, 8x8, 16x16, 32x32
        x = up(width * 2**i, False, "valid" if i == 3 else "same")(x)
        x = layers.ReLU()(batch_norm()(x))
    x = up(images.shape[-1], bias=False)(x)
    y = layers.LeakyReLU(0.2)(down(width)(images))  # 32x32
    for i in (1, 2, 3):  # 16x16, 8x8, 4x4
        y = layers.LeakyReLU(0.2)(batch_norm()(down(width * 2**i)(y)))
    return x, layers.Flatten()(down(width, 1, "valid")(y))


def networks_c(codes, images, width):
    """C's, of 64x64 images, which its D has in [0, 1]."""
    x = layers.Reshape([4, 4, 8 * width])(dense(4 * 4 * 8 * width)(codes))
    for channels in (4 * width, 2 * width, width, images.shape[-1]):  # 8x8, 16x16, 32x32, 64x64
        x = up(channels, bias=True)(layers.ReLU()(batch_norm()(x)))
    y = layers.Rescaling(0.5, 0.5)(images)
    for i in range(4):  # 32x32, 16x16, 8x8, 4x4
        kernel = keras.initializers.TruncatedNormal(stddev=0.02)
        y = layers.Conv2D(width * 2**i, 5, 2, "same", kernel_initializer=kernel)(y)
        y = layers.LeakyReLU(0.1)(batch_norm()(y))
    return x, layers.Flatten()(y)


def build_networks(image_shape, network, latent_dim, label_dim, width, noise):
    """G and D.

    Returns:
        Noise (batch, latent_dim) and labels (batch, label_dim) to images (batch, *image_shape) in [-1, 1];
        images to the logit (batch, 1) of being real and the label's logits (batch, label_dim).
    """
    name = {"normal": "noise", "uniform": "uniform_noise"}[noise]  # which `sample_noise` reads
    noise, label = keras.Input([latent_dim], name=name), keras.Input([label_dim], name="label")
    images, codes = keras.Input(image_shape, name="images"), layers.Concatenate()([noise, label])
    x, y = {"ours": networks_ours, "B": networks_b, "C": networks_c}[network](codes, images, width)
    # All outputs are float32 also in mixed precision.
    generator = keras.Model([noise, label], layers.Activation("tanh", dtype="float32")(x), name="generator")
    heads = [dense(units, dtype="float32", name=name)(y) for name, units in (("source", 1), ("label", label_dim))]
    return generator, keras.Model(images, heads, name="discriminator")


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


def label_accuracy(labels, logits):
    """The share of encoded labels that the logits tell right."""
    if logits.shape[-1] == 1:
        return tf.reduce_mean(tf.cast((logits > 0) == (labels > 0.5), tf.float32))
    return tf.reduce_mean(tf.cast(tf.argmax(logits, 1) == tf.argmax(labels, 1), tf.float32))


class ACGAN(keras.Model):
    """The generator and the discriminator, with an Adam each."""

    def __init__(self, generator, discriminator, learning_rate, seed):
        super().__init__()
        self.generator, self.discriminator, self.seed = generator, discriminator, seed
        self.g_optimizer = keras.optimizers.Adam(learning_rate, beta_1=0.5)
        self.d_optimizer = keras.optimizers.Adam(learning_rate, beta_1=0.5)
        self.g_optimizer.build(generator.trainable_variables)
        self.d_optimizer.build(discriminator.trainable_variables)
        names = ("d_loss", "g_loss", "source_real", "source_fake", "label_real", "label_fake")
        names += ("accuracy_real", "accuracy_fake")
        self.means = [keras.metrics.Mean(name) for name in names]
        self.built = True

    @property
    def metrics(self):
        return self.means

    def networks(self):
        """What is saved, by name; `generate` draws from the first."""
        return {"generator": self.generator, "discriminator": self.discriminator}

    def step_seed(self):
        """Stateless seed, int32 (2,), of this step's noise: a function of seed, step and replica."""
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        return tf.random.experimental.stateless_fold_in([self.seed, self.d_optimizer.iterations.value], replica)

    def train_step(self, batch):
        """One update of D, then one of G, on the same fakes, which are asked for the labels of the real images.

        `batch`: uint8 images (n, H, W, C), their labels (n,).
        """
        images, labels = batch
        reals = tf.cast(images, tf.float32) / 127.5 - 1.0
        labels = encode(tf.cast(labels, tf.int32), self.generator)
        noise = sample_noise(self.generator, tf.shape(images)[0], self.step_seed())
        with tf.GradientTape() as g_tape:
            fakes = self.generator([noise, labels], training=True)
            with tf.GradientTape() as d_tape:
                real_logits, real_labels = self.discriminator(reals, training=True)
                fake_logits, fake_labels = self.discriminator(tf.stop_gradient(fakes), training=True)
                source_real, source_fake = bce(1.0, real_logits), bce(0.0, fake_logits)
                label_real, label_fake = label_loss(labels, real_labels), label_loss(labels, fake_labels)
                d_loss = source_real + source_fake + label_real + label_fake
            with g_tape.stop_recording():
                variables = self.discriminator.trainable_variables
                self.d_optimizer.apply(d_tape.gradient(d_loss, variables), variables)
            after_logits, after_labels = self.discriminator(fakes, training=True)
            g_loss = bce(1.0, after_logits) + label_loss(labels, after_labels)
        variables = self.generator.trainable_variables
        self.g_optimizer.apply(g_tape.gradient(g_loss, variables), variables)

        values = [d_loss, g_loss, source_real, source_fake, label_real, label_fake]
        values += [label_accuracy(labels, real_labels), label_accuracy(labels, fake_labels)]
        for mean, value in zip(self.means, values, strict=True):
            mean.update_state(value)
        return self.get_metrics_result()


def sample_noise(generator, count, seed):
    """Noise (count, latent_dim) that is a function of `seed`: of U(-1, 1) or N(0, 1), as `generator` takes it."""
    noise = generator.inputs[0]
    shape = [count, noise.shape[-1]]
    if noise.name == "uniform_noise":
        return tf.random.stateless_uniform(shape, seed, -1.0, 1.0)
    return tf.random.stateless_normal(shape, seed)


def sample_inputs(generator, count, seed):
    """Noise (count, latent_dim) and encoded labels, each class as likely, that are a function of `seed`."""
    classes = max(2, generator.input_shape[1][-1])  # of two the label may be one bit
    labels = tf.random.stateless_uniform([count], seed, 0, classes, tf.int32)
    # The labels' seed is not the noise's, whose low bits they would be.
    noise_seed = tf.random.experimental.stateless_fold_in(seed, 1)
    return sample_noise(generator, count, noise_seed), encode(labels, generator)


def build(image_shape, *, network, latent_dim, label_dim, width, noise, learning_rate, seed=0):
    """A compiled model for `fit` on uint8 images (batch, H, W, C) of `image_shape` and their labels (batch,).

    Args:
        image_shape: 32x32 for the network "ours", 64x64 for "B" and "C".
        label_dim: the number of classes, whose label is one-hot; 1 for an attribute's bit.
        width: channels of G's last and of D's first hidden layer; each one further in has twice as many.
        noise: "normal" for N(0, 1), "uniform" for U(-1, 1).
    """
    keras.utils.set_random_seed(seed)
    generator, discriminator = build_networks(image_shape, network, latent_dim, label_dim, width, noise)
    model = ACGAN(generator, discriminator, learning_rate, seed)
    model.compile(optimizer=None)
    return model


def generate(generator, count, seed):
    """Images uint8 (count, H, W, C) of `generator`, from noise and labels that are a function of `seed`."""
    return to_uint8(generator, *sample_inputs(generator, count, [seed, -2]))


def to_uint8(generator, noise, labels):
    """Images uint8 (n, H, W, C) of noise (n, latent_dim) and encoded labels, in inference mode."""
    parts = [generator([noise[i : i + 500], labels[i : i + 500]], training=False) for i in range(0, len(noise), 500)]
    return tf.cast(tf.round((tf.concat(parts, 0) + 1.0) * 127.5), tf.uint8).numpy()


if __name__ == "__main__":
    train(RUNS, build, generate, CURVES)
