"""InfoGAN: information-maximising generative adversarial network (Chen et al. 2016, arXiv:1606.03657).

Beside the noise z, the generator G is told codes c, and a network Q must be able to read them off the image: so G has
to say with each code something that can be seen, and none of it was labelled. Q shares the trunk of the discriminator
D. With the lower bound L_I of the mutual information I(c; G(z, c)) (section 5, eq. 5), of known entropy H(c),

    L_I(G, Q) = E[log Q(c|G(z, c))] + H(c)
    min_{G, Q} max_D  E[log D(x)] + E[log(1 - D(G(z, c)))] - weight L_I(G, Q)    (eq. 6)

and G's non-saturating loss of Goodfellow et al. 2014, section 3. H(c) is log 10 for a code of ten values, each as
likely, which L_I of that code can't exceed, and log 2 for a continuous one of U(-1, 1), for which Q is a Gaussian of a
variance of at least exp(-2), so that L_I is at most log 2 - log(2 pi) / 2 + 1 = 0.774.

Report C, not the paper, gives the last term an optimiser of its own, for Q's layers and G, not the trunk. Adam's steps
do not depend on a loss's scale: of the weights, only their ratio counts there.
"""

import math
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

# One row per experiment, the first is the default. `network`: that of the report of this name. `reported`: the figures
# of the reports. The codes, the noise and G's rate on MNIST are the paper's. Ours: the networks there, smaller than the
# paper's, so that at its rate of 2e-4 D can't keep G from drawing one picture a code; and the continuous codes' weight,
# smaller than the others' as the paper's section 6 says.
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
VALUES = 10  # of a categorical code

# The figure of the training curves: a panel per unit, the columns of log.csv in it.
CURVES = {
    "loss (nats)": ["d_loss", "g_loss", "q_loss"],
    "bound of a code's mutual information (nats),\nof a categorical one at most log 10 = 2.30": [
        *(f"mi_categorical_{i + 1}" for i in range(5)),
        *(f"mi_continuous_{i + 1}" for i in range(2)),
    ],
}

normal = keras.initializers.RandomNormal


def batch_norm(**options):
    """Batch norm with the momentum and epsilon of all reports."""
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, **options)


def dense(units, bias=True, **options):
    """A dense layer with initial weights of N(0, 0.02)."""
    return layers.Dense(units, use_bias=bias, kernel_initializer=normal(stddev=0.02), **options)


def up(channels, bias):
    """Of G: doubles the sides."""
    return layers.Conv2DTranspose(channels, 4, 2, "same", use_bias=bias, kernel_initializer=normal(stddev=0.02))


def networks_ours(codes, images, width):
    """Of 32x32 images."""
    x = layers.Reshape([4, 4, 4 * width])(dense(4 * 4 * 4 * width, bias=False)(codes))
    for channels in (2 * width, width, images.shape[-1]):  # 8x8, 16x16, 32x32
        x = up(channels, bias=False)(layers.LeakyReLU(0.1)(batch_norm()(x)))
    y = images
    for i in range(3):  # 16x16, 8x8, 4x4
        y = layers.Conv2D(width * 2**i, 4, 2, "same", use_bias=False, kernel_initializer=normal(stddev=0.02))(y)
        y = layers.LeakyReLU(0.1)(batch_norm()(y) if i else y)
    return x, layers.Flatten()(y)


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


def build_networks(image_shape, network, latent_dim, categorical, continuous, width):
    """G, and D with Q.

    Returns:
        Noise (batch, latent_dim) of U(-1, 1) and codes, (batch, categorical, 10), one-hot, and, unless `continuous`
        is 0, (batch, continuous) of U(-1, 1), to images (batch, *image_shape) in [-1, 1];
        images to the logit (batch, 1) of being real and Q(c|x): logits (batch, categorical, 10) and, unless
        `continuous` is 0, (batch, 2, continuous), the means and the log variances of Gaussians, which count as -2 below
        that. The layer "source" is D's alone, those named "q_..." Q's alone.
    """
    inputs = [keras.Input([latent_dim], name="noise"), keras.Input([categorical, VALUES], name="categorical")]
    if continuous:
        inputs += [keras.Input([continuous], name="continuous")]
    images = keras.Input(image_shape, name="images")
    codes = layers.Concatenate()([inputs[0], layers.Flatten()(inputs[1]), *inputs[2:]])
    x, y = {"ours": networks_ours, "C": networks_c}[network](codes, images, width)
    generator = keras.Model(inputs, layers.Activation("tanh", dtype="float32")(x), name="generator")
    # All outputs are float32 also in mixed precision.
    outputs = [dense(1, dtype="float32", name="source")(y)]
    q = dense(128, name="q_hidden")(y)
    # Ours has no batch norm here: its moving averages, of real and generated images, would mislead Q in inference mode.
    q = layers.LeakyReLU(0.01)(batch_norm(name="q_norm")(q) if network == "C" else q)
    logits = dense(categorical * VALUES, name="q_categorical")(q)
    outputs += [layers.Reshape([categorical, VALUES], dtype="float32")(logits)]
    if continuous:
        gaussians = dense(2 * continuous, name="q_continuous")(q)
        outputs += [layers.Reshape([2, continuous], dtype="float32")(gaussians)]
    return generator, keras.Model(images, outputs, name="discriminator")


def bce(label, logits):
    """Mean cross-entropy in nats of `logits` against one label, 0 or 1."""
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(tf.fill(tf.shape(logits), label), logits))


def information(codes, q):
    """L_I of each code in nats, a mean over the batch: E[log Q(c|x)] + H(c), of the codes drawn and Q(c|x).

    Args:
        codes: one-hot (batch, k, 10) and, or not, (batch, m) of U(-1, 1).
        q: logits (batch, k, 10) and, or not, means and log variances (batch, 2, m).

    Returns:
        (k,) and (m,), the latter of 0 codes where there are none.
    """
    categorical = math.log(VALUES) - tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(codes[0], q[0]), 0)
    if len(codes) == 1:
        return categorical, tf.zeros([0])
    mean, log_variance = tf.unstack(q[1], axis=1)
    # The likelihood of a variance without a least value has no bound: Q's step would soon be for these codes alone.
    log_variance = tf.maximum(log_variance, -2.0)
    nll = 0.5 * (math.log(2 * math.pi) + log_variance + (codes[1] - mean) ** 2 * tf.exp(-log_variance))
    return categorical, math.log(2) - tf.reduce_mean(nll, 0)


class InfoGAN(keras.Model):
    """The generator and the discriminator with Q, with an Adam each, and perhaps one for Q."""

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
        """What is saved, by name; `generate` draws from the first."""
        return {"generator": self.generator, "discriminator": self.discriminator}

    def d_variables(self, with_q):
        """Of the trunk and the layer that tells real from generated, and of Q's own layers or not."""
        mine = [layer for layer in self.discriminator.layers if with_q or not layer.name.startswith("q_")]
        return [weights for layer in mine for weights in layer.trainable_variables]

    def q_variables(self):
        """What Q's own step changes: Q's layers and the generator."""
        mine = [layer for layer in self.discriminator.layers if layer.name.startswith("q_")]
        return [weights for layer in [*mine, self.generator] for weights in layer.trainable_variables]

    def step_seed(self):
        """Stateless seed, int32 (2,), of this step's noise: a function of seed, step and replica."""
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        return tf.random.experimental.stateless_fold_in([self.seed, self.d_optimizer.iterations.value], replica)

    def q_loss(self, codes, q):
        """-L_I, weighted and summed over the codes, and L_I of each: `information`'s arguments, and what it returns."""
        categorical, continuous = information(codes, q)
        loss = -tf.reduce_sum(categorical) - self.continuous_weight * tf.reduce_sum(continuous)
        return loss, categorical, continuous

    def train_step(self, images):
        """One update of D, one of G, and of Q in both or in a third, on the same fakes.

        `images`: uint8 (batch, H, W, C).
        """
        reals = tf.cast(images, tf.float32) / 127.5 - 1.0
        noise, *codes = sample_inputs(self.generator, tf.shape(images)[0], self.step_seed())
        joint = self.q_optimizer is None  # the paper's
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
    """Noise (count, latent_dim) of U(-1, 1) and the codes that `generator` takes, as a function of `seed`."""
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
    """A compiled model for `fit` on uint8 images (batch, H, W, C) of `image_shape`.

    Args:
        image_shape: 32x32 for the network "ours", 64x64 for "C".
        categorical, continuous: the numbers of codes of ten values, from 1 on, and of U(-1, 1), from 0 on.
        width: channels of G's last and of D's first hidden layer; each one further in has twice as many.
        d_learning_rate, g_learning_rate: of D's and G's Adam, which take Q's loss too if `q_learning_rate` is None.
        q_learning_rate: of an Adam of Q's own, for its layers and G; None for the paper's two.
        continuous_weight: of the bound L_I of the continuous codes; that of the categorical ones has weight 1.
    """
    keras.utils.set_random_seed(seed)
    generator, discriminator = build_networks(image_shape, network, latent_dim, categorical, continuous, width)
    model = InfoGAN(
        generator, discriminator, d_learning_rate, g_learning_rate, q_learning_rate, continuous_weight, seed
    )
    model.compile(optimizer=None)
    return model


def generate(generator, count, seed):
    """Images uint8 (count, H, W, C) of `generator`, from noise and codes that are a function of `seed`."""
    return to_uint8(generator, sample_inputs(generator, count, [seed, -2]))


def to_uint8(generator, inputs):
    """Images uint8 (n, H, W, C) of noise and codes (n, ...), in inference mode."""
    starts = range(0, len(inputs[0]), 500)
    parts = [generator([tensor[i : i + 500] for tensor in inputs], training=False) for i in starts]
    return tf.cast(tf.round((tf.concat(parts, 0) + 1.0) * 127.5), tf.uint8).numpy()


if __name__ == "__main__":
    train(RUNS, build, generate, CURVES)
