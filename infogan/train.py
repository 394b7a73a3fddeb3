"""InfoGAN: information-maximising generative adversarial network (Chen et al. 2016, arXiv:1606.03657).

The generator G takes codes c as well as noise z, and a network Q must recover the codes from the image. Each code
therefore comes to control something visible, without any labels. Q shares the trunk of the discriminator D. L_I is a
lower bound on the mutual information I(c; G(z, c)), with a known entropy H(c) (section 5, eq. 5):

    L_I(G, Q) = E[log Q(c|G(z, c))] + H(c)
    min_{G, Q} max_D  E[log D(x)] + E[log(1 - D(G(z, c)))] - weight L_I(G, Q)    (eq. 6)

G has the non-saturating loss of Goodfellow et al. 2014, section 3. H(c) is log 10 for a code with ten equally likely
values, which L_I of that code can't exceed, and log 2 for a continuous code from U(-1, 1). For the latter, Q is a
Gaussian with a variance of at least exp(-2), so L_I is at most log 2 - log(2 pi) / 2 + 1 = 0.774.

Unlike the paper, report C gives the last term an optimizer of its own, which updates Q's own layers and G but not the
trunk. Adam's steps do not depend on the scale of a loss, so only the ratio of the codes' weights matters there.
"""

import math
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

# One row per experiment; the first is the default. `network`: the report whose networks are used, or "ours".
# `reported`: the reports' numbers by source. On MNIST, the codes, the noise and G's learning rate are the paper's. Our
# networks are smaller than the paper's; with its learning rate of 2e-4, D can't keep this G from drawing one image per
# code. The continuous codes' weight is ours, smaller than the categorical codes' as suggested in the paper's section 6.
RUNS = {
    "mnist_padded": dict(
        dataset="mnist_padded", batch_size=64, steps=25_000,
        model=dict(
            network="ours", latent_dim=62, categorical=1, continuous=2, width=16, d_learning_rate=1e-3,
            g_learning_rate=1e-3, q_learning_rate=None, continuous_weight=0.1,
        ),
        reported={"the paper": {"Q tells real test images' digits (share)": 0.95}},
    ),
    "celeba_cat5x10": dict(  # 300 epochs of 40,000 images
        dataset="celeba", batch_size=64, steps=187_500,
        model=dict(
            network="C", latent_dim=64, categorical=5, continuous=0, width=32, d_learning_rate=2e-4,
            g_learning_rate=2e-4, q_learning_rate=2e-4, continuous_weight=0.1,
        ),
        reported={"C": {}},
    ),
    "celeba_cat10_cont2": dict(
        dataset="celeba", batch_size=64, steps=187_500,
        model=dict(
            network="C", latent_dim=62, categorical=1, continuous=2, width=32, d_learning_rate=2e-4,
            g_learning_rate=2e-4, q_learning_rate=2e-4, continuous_weight=0.1,
        ),
        reported={"C": {}},
    ),
}  # fmt: skip
VALUES = 10  # per categorical code

# The panels of curves.png, one per unit, and the columns of log.csv in each.
CURVES = {
    "loss (nats)": ["d_loss", "g_loss", "q_loss"],
    "bound on a code's mutual information (nats),\nfor a categorical one at most log 10 = 2.30": [
        *(f"mi_categorical_{i + 1}" for i in range(10)),
        *(f"mi_continuous_{i + 1}" for i in range(10)),
    ],
}

normal = keras.initializers.RandomNormal


def batch_norm(**options):
    """Returns a batch norm layer with the momentum and epsilon of all reports."""
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, **options)


def dense(units, bias=True, **options):
    """Returns a dense layer whose initial weights are normal, with a standard deviation of 0.02."""
    return layers.Dense(units, use_bias=bias, kernel_initializer=normal(stddev=0.02), **options)


def up(channels, bias):
    """Returns a layer for G that doubles height and width."""
    return layers.Conv2DTranspose(channels, 4, 2, "same", use_bias=bias, kernel_initializer=normal(stddev=0.02))


def networks_ours(codes, images, width):
    """Builds our networks for 32x32 images."""
    x = layers.Reshape([4, 4, 4 * width])(dense(4 * 4 * 4 * width, bias=False)(codes))
    for channels in (2 * width, width, images.shape[-1]):  # 8x8, 16x16, 32x32
        x = up(channels, bias=False)(layers.LeakyReLU(0.1)(batch_norm()(x)))
    y = images
    for i in range(3):  # 16x16, 8x8, 4x4
        y = layers.Conv2D(width * 2**i, 4, 2, "same", use_bias=False, kernel_initializer=normal(stddev=0.02))(y)
        y = layers.LeakyReLU(0.1)(batch_norm()(y) if i else y)
    return x, layers.Flatten()(y)


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


def build_networks(image_shape, network, latent_dim, categorical, continuous, width):
    """Builds G, and D with Q.

    Returns:
        G, from noise (batch, latent_dim) drawn from U(-1, 1) and codes, one-hot (batch, categorical, 10) and, unless
        `continuous` is 0, (batch, continuous) from U(-1, 1), to images (batch, *image_shape) in [-1, 1], and D, from
        images to the logit (batch, 1) of being real and Q(c|x): logits (batch, categorical, 10) and, unless
        `continuous` is 0, the means and log-variances (batch, 2, continuous) of Gaussians; log-variances below -2 count
        as -2. Only D uses the layer "source", only Q the layers named "q_...".
    """
    inputs = [keras.Input([latent_dim], name="noise"), keras.Input([categorical, VALUES], name="categorical")]
    if continuous:
        inputs += [keras.Input([continuous], name="continuous")]
    images = keras.Input(image_shape, name="images")
    codes = layers.Concatenate()([inputs[0], layers.Flatten()(inputs[1]), *inputs[2:]])
    x, y = {"ours": networks_ours, "C": networks_c}[network](codes, images, width)
    generator = keras.Model(inputs, layers.Activation("tanh", dtype="float32")(x), name="generator")
    # All outputs are float32, even in mixed precision.
    outputs = [dense(1, dtype="float32", name="source")(y)]
    q = dense(128, name="q_hidden")(y)
    # Ours has no batch norm here: its moving averages mix real and generated images and mislead Q in inference mode.
    q = layers.LeakyReLU(0.01)(batch_norm(name="q_norm")(q) if network == "C" else q)
    logits = dense(categorical * VALUES, name="q_categorical")(q)
    outputs += [layers.Reshape([categorical, VALUES], dtype="float32")(logits)]
    if continuous:
        gaussians = dense(2 * continuous, name="q_continuous")(q)
        outputs += [layers.Reshape([2, continuous], dtype="float32")(gaussians)]
    if generator.output_shape[1:] != tuple(image_shape):
        raise ValueError(f"network {network!r} is for images of {generator.output_shape[1:]}, not {image_shape}")
    return generator, keras.Model(images, outputs, name="discriminator")


def bce(label, logits):
    """Returns the mean binary cross-entropy of `logits` in nats; all have the same `label`, 0 or 1."""
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(tf.fill(tf.shape(logits), label), logits))


def information(codes, q):
    """Returns L_I of each code in nats, averaged over the batch: E[log Q(c|x)] + H(c).

    Args:
        codes: the codes, one-hot (batch, k, 10) and, optionally, (batch, m) from U(-1, 1).
        q: Q(c|x), logits (batch, k, 10) and, optionally, means and log-variances (batch, 2, m).

    Returns:
        The bounds of the categorical codes (k,) and of the continuous codes (m,), where m is 0 if there are none.
    """
    categorical = math.log(VALUES) - tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(codes[0], q[0]), 0)
    if len(codes) == 1:
        return categorical, tf.zeros([0])
    mean, log_variance = tf.unstack(q[1], axis=1)
    # Without a minimum variance, the likelihood is unbounded, and these codes would soon dominate Q's updates.
    log_variance = tf.maximum(log_variance, -2.0)
    nll = 0.5 * (math.log(2 * math.pi) + log_variance + (codes[1] - mean) ** 2 * tf.exp(-log_variance))
    return categorical, math.log(2) - tf.reduce_mean(nll, 0)


class InfoGAN(keras.Model):
    """The generator and the discriminator with Q, each with its own Adam; Q may have a third."""

    def __init__(
        self, generator, discriminator, d_learning_rate, g_learning_rate, q_learning_rate, continuous_weight, seed
    ):
        super().__init__()
        self.generator, self.discriminator, self.seed = generator, discriminator, seed
        self.continuous_weight = continuous_weight
        self.d_optimizer = keras.optimizers.Adam(d_learning_rate, beta_1=0.5)
        self.g_optimizer = keras.optimizers.Adam(g_learning_rate, beta_1=0.5)
        self.d_optimizer.build(self.d_variables(q_learning_rate is None))
        self.g_optimizer.build(generator.trainable_variables)
        self.q_optimizer = None
        if q_learning_rate is not None:
            self.q_optimizer = keras.optimizers.Adam(q_learning_rate, beta_1=0.5)
            self.q_optimizer.build(self.q_variables())
        names = ["d_loss", "g_loss", "q_loss"]
        for tensor in generator.inputs[1:]:
            names += [f"mi_{tensor.name}_{i + 1}" for i in range(tensor.shape[1])]
        self.means = [keras.metrics.Mean(name) for name in names]
        self.built = True

    @property
    def metrics(self):
        return self.means

    def networks(self):
        """Returns the networks to save, by name; `generate` uses the first."""
        return {"generator": self.generator, "discriminator": self.discriminator}

    def d_variables(self, with_q):
        """Returns the variables of the trunk and of the layer "source", and `with_q` those of Q's own layers."""
        mine = [layer for layer in self.discriminator.layers if with_q or not layer.name.startswith("q_")]
        return [weights for layer in mine for weights in layer.trainable_variables]

    def q_variables(self):
        """Returns the variables that Q's own optimizer updates: those of Q's own layers and of the generator."""
        mine = [layer for layer in self.discriminator.layers if layer.name.startswith("q_")]
        return [weights for layer in [*mine, self.generator] for weights in layer.trainable_variables]

    def step_seed(self):
        """Returns the stateless seed, int32 (2,), of this step's noise: a function of seed, step and replica."""
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        return tf.random.experimental.stateless_fold_in([self.seed, self.d_optimizer.iterations.value], replica)

    def q_loss(self, codes, q):
        """Returns -L_I, weighted and summed over the codes, and what `information` returns for the same arguments."""
        categorical, continuous = information(codes, q)
        loss = -tf.reduce_sum(categorical) - self.continuous_weight * tf.reduce_sum(continuous)
        return loss, categorical, continuous

    def train_step(self, images):
        """Updates D once, then G once on the same fakes, and Q with D or in a third update.

        `images`: uint8 (batch, H, W, C).
        """
        tf.debugging.assert_type(images, tf.uint8)  # floats would be scaled to a wrong range
        reals = tf.cast(images, tf.float32) / 127.5 - 1.0
        noise, *codes = sample_inputs(self.generator, tf.shape(images)[0], self.step_seed())
        joint = self.q_optimizer is None  # as in the paper
        with tf.GradientTape(persistent=not joint) as tape:
            fakes = self.generator([noise, *codes], training=True)
            with tf.GradientTape() as d_tape:
                real_logits = self.discriminator(reals, training=True)[0]
                fake_logits, *q = self.discriminator(tf.stop_gradient(fakes), training=True)
                d_loss = bce(1.0, real_logits) + bce(0.0, fake_logits)
                d_objective = d_loss + self.q_loss(codes, q)[0] if joint else d_loss
            with tape.stop_recording():
                variables = self.d_variables(with_q=joint)
                self.d_optimizer.apply(d_tape.gradient(d_objective, variables), variables)
            fake_logits, *q = self.discriminator(fakes, training=True)
            g_loss = bce(1.0, fake_logits)
            q_loss, categorical, continuous = self.q_loss(codes, q)
            g_objective = g_loss + q_loss if joint else g_loss
        g_variables, q_variables = self.generator.trainable_variables, self.q_variables()
        g_gradients = tape.gradient(g_objective, g_variables)
        q_gradients = None if joint else tape.gradient(q_loss, q_variables)
        self.g_optimizer.apply(g_gradients, g_variables)
        if not joint:
            self.q_optimizer.apply(q_gradients, q_variables)

        values = [d_loss, g_loss, q_loss, *tf.unstack(categorical), *tf.unstack(continuous)]
        for mean, value in zip(self.means, values, strict=True):
            mean.update_state(value)
        return self.get_metrics_result()


def sample_inputs(generator, count, seed):
    """Returns noise (count, latent_dim) from U(-1, 1) and codes, as `generator` expects; a function of `seed`."""
    seeds = [tf.random.experimental.stateless_fold_in(seed, i) for i in range(3)]
    noise, categorical, *continuous = generator.input_shape
    noise = tf.random.stateless_uniform([count, noise[1]], seeds[0], -1.0, 1.0)
    values = tf.random.stateless_uniform([count, categorical[1]], seeds[1], 0, VALUES, tf.int32)
    drawn = [tf.random.stateless_uniform([count, shape[1]], seeds[2], -1.0, 1.0) for shape in continuous]
    return [noise, tf.one_hot(values, VALUES), *drawn]


def build(
    image_shape, *, network, latent_dim, categorical, continuous, width, d_learning_rate, g_learning_rate,
    q_learning_rate, continuous_weight, seed=0,
):  # fmt: skip
    """Returns a compiled model for `fit` on uint8 images (batch, *image_shape).

    Args:
        image_shape: (height, width, channels), 32x32 for network "ours", 64x64 for "C".
        categorical, continuous: numbers of codes with ten values (at least 1) and of codes from U(-1, 1) (at least 0).
        width: channels of G's last and of D's first hidden layer, doubling with each layer away from the image.
        d_learning_rate, g_learning_rate: for D's and G's Adam; if `q_learning_rate` is None, Q's loss is added to D's
            and to G's, as in the paper.
        q_learning_rate: for a third Adam, which minimises Q's loss over Q's own layers and G, or None.
        continuous_weight: the weight of L_I of the continuous codes; that of the categorical codes is 1.
        seed: of the weights and the noise; also sets Python's, NumPy's and TensorFlow's global seeds.

    Raises:
        ValueError: The network is for images of another size.
    """
    keras.utils.set_random_seed(seed)
    generator, discriminator = build_networks(image_shape, network, latent_dim, categorical, continuous, width)
    model = InfoGAN(
        generator, discriminator, d_learning_rate, g_learning_rate, q_learning_rate, continuous_weight, seed
    )
    model.compile(optimizer=None)
    return model


def generate(generator, count, seed):
    """Returns uint8 images (count, H, W, C) from `generator`; the noise and codes are a function of `seed`."""
    return to_uint8(generator, sample_inputs(generator, count, [seed, -2]))


def to_uint8(generator, inputs):
    """Returns uint8 images (n, H, W, C) for noise and codes (n, ...), in inference mode."""
    starts = range(0, len(inputs[0]), 500)
    parts = (generator([tensor[i : i + 500] for tensor in inputs], training=False) for i in starts)
    return tf.concat([tf.cast(tf.round((part + 1.0) * 127.5), tf.uint8) for part in parts], 0).numpy()


if __name__ == "__main__":
    train(RUNS, build, generate, CURVES)
