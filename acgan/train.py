"""ACGAN: auxiliary-classifier generative adversarial network (Odena et al. 2017, arXiv:1610.09585).

The generator G takes a label c as well as noise; the discriminator D predicts both whether an image is real and what
its label is. L_S is the log-likelihood of the correct source, L_C that of the correct label, each the mean over real
plus the mean over generated images (section 3, eq. 2 and 3). D maximises L_S + L_C, G maximises L_C - L_S, here with
the non-saturating loss of Goodfellow et al. 2014, section 3:

    L_D = -E[log D(x)] - E[log(1 - D(G(z, c)))] - E[log P(c_x|x)] - E[log P(c|G(z, c))]
    L_G = -E[log D(G(z, c))] - E[log P(c|G(z, c))]
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

# One row per experiment; the first is the default. `labels`: an attribute's name, or "class". `network`: the report
# whose networks are used, or "ours". `reported`: the reports' numbers by source. The row mnist_padded is ours: with
# resized digits, D recognises the interpolation and wins, and G ends up with one image per label.
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

# The panels of curves.png, one per unit, and the columns of log.csv in each.
CURVES = {
    "loss (nats)": ["d_loss", "g_loss"],
    "D's loss on the source (nats)": ["source_real", "source_fake"],
    "D's loss on the label (nats)": ["label_real", "label_fake"],
    "D's label accuracy (share)": ["accuracy_real", "accuracy_fake"],
}

normal = keras.initializers.RandomNormal


def batch_norm(**options):
    """Returns a batch norm layer with the momentum and epsilon of all reports."""
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, **options)


def dense(units, bias=True, **options):
    """Returns a dense layer whose initial weights are normal, with a standard deviation of 0.02."""
    return layers.Dense(units, use_bias=bias, kernel_initializer=normal(stddev=0.02), **options)


def up(channels, bias, padding="same"):
    """Returns a layer for G that doubles height and width or, with "valid" padding, turns 1x1 into 4x4."""
    return layers.Conv2DTranspose(channels, 4, 2, padding, use_bias=bias, kernel_initializer=normal(stddev=0.02))


def down(channels, strides=2, padding="same"):
    """Returns a layer for D in B's networks and ours."""
    return layers.Conv2D(channels, 4, strides, padding, use_bias=False, kernel_initializer=normal(stddev=0.02))


def networks_ours(codes, images, width):
    """Builds our networks for 32x32 images."""
    x = layers.Reshape([4, 4, 4 * width])(dense(4 * 4 * 4 * width, bias=False)(codes))
    for channels in (2 * width, width, images.shape[-1]):  # 8x8, 16x16, 32x32
        x = layers.LeakyReLU(0.2)(batch_norm(gamma_initializer=normal(1.0, 0.02))(x))
        x = up(channels, bias=False)(x)
    y = layers.LeakyReLU(0.2)(down(width)(images))  # 16x16
    for channels in (2 * width, 4 * width):  # 8x8, 4x4
        y = layers.LeakyReLU(0.2)(batch_norm(gamma_initializer=normal(1.0, 0.02))(down(channels)(y)))
    return x, layers.Flatten()(y)


def networks_b(codes, images, width):
    """Builds B's networks for 64x64 images."""
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
    """Builds C's networks for 64x64 images, which its D scales to [0, 1]."""
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
    """Builds G and D.

    Returns:
        G, from noise (batch, latent_dim) and labels (batch, label_dim) to images (batch, *image_shape) in [-1, 1], and
        D, from images to the logit (batch, 1) of being real and the label's logits (batch, label_dim).
    """
    name = {"normal": "noise", "uniform": "uniform_noise"}[noise]  # read by `sample_noise`
    noise, label = keras.Input([latent_dim], name=name), keras.Input([label_dim], name="label")
    images, codes = keras.Input(image_shape, name="images"), layers.Concatenate()([noise, label])
    x, y = {"ours": networks_ours, "B": networks_b, "C": networks_c}[network](codes, images, width)
    # All outputs are float32, even in mixed precision.
    generator = keras.Model([noise, label], layers.Activation("tanh", dtype="float32")(x), name="generator")
    if generator.output_shape[1:] != tuple(image_shape):
        raise ValueError(f"network {network!r} is for images of {generator.output_shape[1:]}, not {image_shape}")
    heads = [dense(units, dtype="float32", name=name)(y) for name, units in (("source", 1), ("label", label_dim))]
    return generator, keras.Model(images, heads, name="discriminator")


def bce(label, logits):
    """Returns the mean binary cross-entropy of `logits` in nats; all have the same `label`, 0 or 1."""
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(tf.fill(tf.shape(logits), label), logits))


def encode(labels, generator):
    """Encodes int labels (batch,) or (batch, 1) as `generator` expects: bits (batch, 1) or one-hot (batch, classes)."""
    size = generator.input_shape[1][-1]
    codes = tf.eye(size) if size > 1 else tf.constant([[0.0], [1.0]])
    labels = tf.reshape(labels, [-1, 1])
    known = (labels >= 0) & (labels < codes.shape[0])  # on a GPU, tf.gather would turn a wrong label into a valid one
    return tf.where(known, tf.gather(codes, labels[:, 0]), float("nan"))  # on a CPU, tf.gather raises


def label_loss(labels, logits):
    """Returns -log P(c|x) in nats, averaged over the batch, for encoded labels, Bernoulli (bits) or categorical."""
    if logits.shape[-1] == 1:
        return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels, logits))
    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(labels, logits))


def label_accuracy(labels, logits):
    """Returns the share of encoded labels that the logits predict correctly."""
    if logits.shape[-1] == 1:
        return tf.reduce_mean(keras.metrics.binary_accuracy(labels, logits, threshold=0.0))
    return tf.reduce_mean(keras.metrics.categorical_accuracy(labels, logits))


class ACGAN(keras.Model):
    """The generator and the discriminator, each with its own Adam."""

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
        """Returns the networks to save, by name; `generate` uses the first."""
        return {"generator": self.generator, "discriminator": self.discriminator}

    def step_seed(self):
        """Returns the stateless seed, int32 (2,), of this step's noise: a function of seed, step and replica."""
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        return tf.random.experimental.stateless_fold_in([self.seed, self.d_optimizer.iterations.value], replica)

    def train_step(self, batch):
        """Updates D once, then G once on the same fakes, which have the same labels as the real images.

        `batch`: uint8 images (n, H, W, C) and their labels (n,).
        """
        images, labels = batch
        tf.debugging.assert_type(images, tf.uint8)  # floats would be scaled to a wrong range
        reals = tf.cast(images, tf.float32) / 127.5 - 1.0
        tf.debugging.assert_integer(labels)  # 0.9 would become 0
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
    """Returns noise (count, latent_dim) from U(-1, 1) or N(0, 1), as `generator` expects; a function of `seed`."""
    noise = generator.inputs[0]
    shape = [count, noise.shape[-1]]
    if noise.name == "uniform_noise":
        return tf.random.stateless_uniform(shape, seed, -1.0, 1.0)
    return tf.random.stateless_normal(shape, seed)


def sample_inputs(generator, count, seed):
    """Returns noise (count, latent_dim) and encoded labels, all equally likely; a function of `seed`."""
    classes = max(2, generator.input_shape[1][-1])  # two classes may be encoded as one bit
    labels = tf.random.stateless_uniform([count], seed, 0, classes, tf.int32)
    # With the same seed, the labels would be the low bits of the noise.
    noise_seed = tf.random.experimental.stateless_fold_in(seed, 1)
    return sample_noise(generator, count, noise_seed), encode(labels, generator)


def build(image_shape, *, network, latent_dim, label_dim, width, noise, learning_rate, seed=0):
    """Returns a compiled model for `fit` on uint8 images (batch, *image_shape) and labels (batch,) that count from 0.

    Args:
        image_shape: (height, width, channels), 32x32 for network "ours", 64x64 for "B" and "C".
        label_dim: the number of classes, for one-hot labels, or 1, for an attribute as one bit.
        width: channels of G's last and of D's first hidden layer, doubling with each layer away from the image; D's
            last convolution in "B" has as many again.
        noise: "normal" for N(0, 1), "uniform" for U(-1, 1).
        seed: of the weights and the noise; also sets Python's, NumPy's and TensorFlow's global seeds.

    Raises:
        ValueError: The network is for images of another size.
    """
    keras.utils.set_random_seed(seed)
    generator, discriminator = build_networks(image_shape, network, latent_dim, label_dim, width, noise)
    model = ACGAN(generator, discriminator, learning_rate, seed)
    model.compile(optimizer=None)
    return model


def generate(generator, count, seed):
    """Returns uint8 images (count, H, W, C) from `generator`; the noise and labels are a function of `seed`."""
    return to_uint8(generator, *sample_inputs(generator, count, [seed, -2]))


def to_uint8(generator, noise, labels):
    """Returns uint8 images (n, H, W, C) for noise (n, latent_dim) and encoded labels, in inference mode."""
    parts = (generator([noise[i : i + 500], labels[i : i + 500]], training=False) for i in range(0, len(noise), 500))
    return tf.concat([tf.cast(tf.round((part + 1.0) * 127.5), tf.uint8) for part in parts], 0).numpy()


if __name__ == "__main__":
    train(RUNS, build, generate, CURVES)
