"""InfoGAN: information-maximising generative adversarial network (Chen et al. 2016, arXiv:1606.03657).

Beside the noise z, the generator G is told codes c, and a network Q must be able to read them off the image: so G has
to say with each code something that can be seen, and none of it was labelled. Q shares the trunk of the discriminator
D. With the lower bound L_I of the mutual information I(c; G(z, c)) (section 5, eq. 5), of known entropy H(c),

    L_I(G, Q) = E[log Q(c|G(z, c))] + H(c)
    min_{G, Q} max_D  E[log D(x)] + E[log(1 - D(G(z, c)))] - weight L_I(G, Q)    (eq. 6)

and G's non-saturating loss of Goodfellow et al. 2014, section 3. H(c) is log 10 for a code of ten values, each as
likely, which L_I of that code can't exceed, and log 2 for a continuous one of U(-1, 1), for which Q is a Gaussian of a
variance of at least exp(-2), so that L_I is at most log 2 - log(2 pi) / 2 + 1 = 0.774. (Report C takes for H(c) the
entropy of the codes that were drawn: one-hot vectors, so 0 always. What it shows is the conditional entropy alone.)

As in report C, not the paper, the last term has an optimiser of its own, Q's, for Q, the trunk and G. Adam's steps do
not depend on a loss's scale: of the weights, only their ratio counts.
"""

import math
import os

os.environ["KERAS_BACKEND"] = "tensorflow"
if __name__ == "__main__":
    from common import run  # before TensorFlow, whose start-up messages it keeps from the terminal

import keras
import tensorflow as tf
from keras import layers

# One row per experiment, the first is the default. `reported`: the figures of the reports. The codes and the noise on
# MNIST are the paper's, C's row counts and rates those on faces. Widths, slopes on MNIST, the rates there (the paper's:
# G 1e-3, D 2e-4), that of Q's step on faces and the continuous codes' weight, smaller than the others' as the paper's
# section 6 says: ours. On faces Q's step must be small: at D's rate G soon tells each code by a faint texture that only
# Q sees, and no longer keeps up with D.
RUNS = {
    "mnist": dict(
        dataset="mnist", batch_size=64, steps=25_000, latent_dim=62, categorical=1, continuous=2,
        width=16, slope=0.1, learning_rate=1e-3, q_learning_rate=1e-3, continuous_weight=0.1, reported={},
    ),
    "celeba_cat5x10": dict(
        dataset="celeba", batch_size=64, steps=187_500, latent_dim=64, categorical=5, continuous=0,
        width=32, slope=0.1, learning_rate=2e-4, q_learning_rate=5e-5, continuous_weight=0.1, reported={"C": {}},
    ),
    "celeba_cat10_cont2": dict(
        dataset="celeba", batch_size=64, steps=187_500, latent_dim=62, categorical=1, continuous=2,
        width=32, slope=0.1, learning_rate=2e-4, q_learning_rate=5e-5, continuous_weight=0.1, reported={"C": {}},
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


def batch_norm():
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, gamma_initializer=normal(1.0, 0.02))


def build_generator(image_shape, latent_dim, categorical, continuous, width, slope):
    """Noise (batch, latent_dim) of U(-1, 1) and codes to images (batch, *image_shape) in [-1, 1].

    Codes are (batch, categorical, 10), one-hot, and, unless `continuous` is 0, (batch, continuous) of U(-1, 1).
    """
    ups = (image_shape[0] // 4).bit_length() - 1  # from 4x4
    channels = [width * 2**i for i in reversed(range(ups))]
    inputs = [keras.Input([latent_dim], name="noise"), keras.Input([categorical, VALUES], name="categorical")]
    if continuous:
        inputs += [keras.Input([continuous], name="continuous")]
    x = layers.Concatenate()([inputs[0], layers.Flatten()(inputs[1]), *inputs[2:]])
    x = layers.Dense(4 * 4 * channels[0], use_bias=False, kernel_initializer=normal(stddev=0.02))(x)
    x = layers.Reshape([4, 4, channels[0]])(x)
    for c in [*channels[1:], image_shape[-1]]:
        x = layers.LeakyReLU(slope)(batch_norm()(x))
        x = layers.Conv2DTranspose(c, 4, 2, "same", use_bias=False, kernel_initializer=normal(stddev=0.02))(x)
    return keras.Model(inputs, layers.Activation("tanh", dtype="float32")(x), name="generator")


def build_discriminator(image_shape, categorical, continuous, width, slope):
    """D and Q: images (batch, *image_shape) in [-1, 1] to the logit (batch, 1) of being real and Q(c|x).

    Q(c|x) is of logits (batch, categorical, 10) and, unless `continuous` is 0, (batch, 2, continuous), the means and
    the log variances of Gaussians, which count as -2 below that. The layer "source" is D's alone, those named "q_..."
    Q's alone; those of the categorical codes start from Keras' larger weights, for larger gradients at the start.
    """
    x = images = keras.Input(image_shape, name="images")
    for i in range((image_shape[0] // 4).bit_length() - 1):  # to 4x4
        x = layers.Conv2D(width * 2**i, 4, 2, "same", use_bias=False, kernel_initializer=normal(stddev=0.02))(x)
        x = layers.LeakyReLU(slope)(batch_norm()(x) if i else x)
    x = layers.Flatten()(x)
    # The outputs are float32 also in mixed precision.
    outputs = [layers.Dense(1, kernel_initializer=normal(stddev=0.02), dtype="float32", name="source")(x)]
    x = layers.Dense(128, name="q_hidden")(x)
    x = layers.LeakyReLU(slope)(x)
    codes = layers.Dense(categorical * VALUES, name="q_categorical")(x)
    outputs += [layers.Reshape([categorical, VALUES], dtype="float32")(codes)]
    if continuous:
        codes = layers.Dense(2 * continuous, kernel_initializer=normal(stddev=0.02), name="q_continuous")(x)
        outputs += [layers.Reshape([2, continuous], dtype="float32")(codes)]
    return keras.Model(images, outputs, name="discriminator")


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
    def __init__(self, generator, discriminator, learning_rate, q_learning_rate, continuous_weight, seed):
        super().__init__()
        self.generator, self.discriminator, self.seed = generator, discriminator, seed
        self.continuous_weight = continuous_weight
        self.d_optimizer = keras.optimizers.Adam(learning_rate, beta_1=0.5)
        self.g_optimizer = keras.optimizers.Adam(learning_rate, beta_1=0.5)
        self.q_optimizer = keras.optimizers.Adam(q_learning_rate, beta_1=0.5)
        self.d_optimizer.build(self.d_variables())
        self.g_optimizer.build(generator.trainable_variables)
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

    def d_variables(self):
        """What D's step changes: the trunk and the layer that tells real from generated."""
        mine = [layer for layer in self.discriminator.layers if not layer.name.startswith("q_")]
        return [weights for layer in mine for weights in layer.trainable_variables]

    def q_variables(self):
        """What Q's step changes: the trunk, Q's own layers, and the generator."""
        mine = [layer for layer in self.discriminator.layers if layer.name != "source"]
        return [weights for layer in [*mine, self.generator] for weights in layer.trainable_variables]

    def draw(self):
        """Stateless seed, int32 (2,), of this step's noise: a function of seed, step and replica."""
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        return tf.random.experimental.stateless_fold_in([self.seed, self.d_optimizer.iterations.value], replica)

    def train_step(self, images):
        """One update of D, one of G, one of Q with G, on the same fakes. `images`: uint8 (n, H, W, C)."""
        reals = tf.cast(images, tf.float32) / 127.5 - 1.0
        noise, *codes = draw_inputs(self.generator, tf.shape(images)[0], self.draw())
        with tf.GradientTape(persistent=True) as tape:
            fakes = self.generator([noise, *codes], training=True)
            with tf.GradientTape() as d_tape:
                real_logits = self.discriminator(reals, training=True)[0]
                fake_logits = self.discriminator(tf.stop_gradient(fakes), training=True)[0]
                d_loss = bce(1.0, real_logits) + bce(0.0, fake_logits)
            with tape.stop_recording():
                variables = self.d_variables()
                self.d_optimizer.apply(d_tape.gradient(d_loss, variables), variables)
            fake_logits, *q = self.discriminator(fakes, training=True)
            g_loss = bce(1.0, fake_logits)
            categorical, continuous = information(codes, q)
            q_loss = -tf.reduce_sum(categorical) - self.continuous_weight * tf.reduce_sum(continuous)
        g_variables, q_variables = self.generator.trainable_variables, self.q_variables()
        g_gradients, q_gradients = tape.gradient(g_loss, g_variables), tape.gradient(q_loss, q_variables)
        self.g_optimizer.apply(g_gradients, g_variables)
        self.q_optimizer.apply(q_gradients, q_variables)

        values = [d_loss, g_loss, q_loss, *tf.unstack(categorical), *tf.unstack(continuous)]
        for mean, value in zip(self.means, values, strict=True):
            mean.update_state(value)
        return self.get_metrics_result()


def draw_inputs(generator, count, seed):
    """Noise (count, latent_dim) of U(-1, 1) and the codes that `generator` takes, as a function of `seed`."""
    seeds = [tf.random.experimental.stateless_fold_in(seed, i) for i in range(3)]
    noise, categorical, *continuous = generator.input_shape
    noise = tf.random.stateless_uniform([count, noise[1]], seeds[0], -1.0, 1.0)
    values = tf.random.stateless_uniform([count, categorical[1]], seeds[1], 0, VALUES, tf.int32)
    drawn = [tf.random.stateless_uniform([count, shape[1]], seeds[2], -1.0, 1.0) for shape in continuous]
    return [noise, tf.one_hot(values, VALUES), *drawn]


def build(
    image_shape, *, latent_dim, categorical, continuous, width, slope, learning_rate, q_learning_rate,
    continuous_weight, seed=0,
):  # fmt: skip
    """A compiled model for `fit` on uint8 images (batch, H, W, C) of `image_shape`.

    Args:
        image_shape: square, the side a power of two from 8 on.
        categorical, continuous: the numbers of codes of ten values, from 1 on, and of U(-1, 1), from 0 on.
        width: channels of G's last and of D's first hidden layer; each one further in has twice as many.
        slope: of the LeakyReLUs.
        learning_rate: of two optimisers, D's and G's for its own loss.
        q_learning_rate: of Q's step with G.
        continuous_weight: of the bound L_I of the continuous codes; that of the categorical ones has weight 1.
    """
    keras.utils.set_random_seed(seed)
    generator = build_generator(image_shape, latent_dim, categorical, continuous, width, slope)
    discriminator = build_discriminator(image_shape, categorical, continuous, width, slope)
    model = InfoGAN(generator, discriminator, learning_rate, q_learning_rate, continuous_weight, seed)
    model.compile(optimizer=None)
    return model


def generate(generator, count, seed):
    """Images uint8 (count, H, W, C) of `generator`, from noise and codes that are a function of `seed`."""
    return to_uint8(generator, draw_inputs(generator, count, [seed, -2]))


def to_uint8(generator, inputs):
    """Images uint8 (n, H, W, C) of noise and codes (n, ...), in inference mode."""
    starts = range(0, len(inputs[0]), 500)
    parts = [generator([tensor[i : i + 500] for tensor in inputs], training=False) for i in starts]
    return tf.cast(tf.round((tf.concat(parts, 0) + 1.0) * 127.5), tf.uint8).numpy()


if __name__ == "__main__":
    run.train(RUNS, build, generate, CURVES)
