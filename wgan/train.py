"""WGAN-DIV and WGAN-GP (Wu et al. 2018, arXiv:1712.01026; Gulrajani et al. 2017, arXiv:1704.00028).

Instead of a discriminator's probability, a critic f gives each image an unbounded score, high for real images. Its
gradient is penalised at points between real images x and generated ones, x' = u x + (1 - u) G(z), with u from U(0, 1)
(Algorithm 1 of both papers):

    L_f = E[f(G(z))] - E[f(x)] + weight E[| |grad f(x')| - target |^power]        L_G = -E[f(G(z))]

WGAN-DIV: target 0, weight k = 2, power p = 6; the maximum of -L_f over all smooth f is the Wasserstein divergence.
WGAN-GP: target 1, weight 10, power 2; the maximum of E[f(x)] - E[f(G(z))] over all 1-Lipschitz f is the Wasserstein-1
distance, and the gradient of the optimal f has norm 1 between coupled real and generated images.
The critic is updated five times before each update of G, as in WGAN-GP.
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

# One row per experiment; the first is the default. A step is one update of G. `network`: the report whose networks are
# used, or "ours". `reported`: the reports' numbers by source, under our names for the same measures; D's published
# images were measured like ours. The penalty and its points are the papers', Adam's betas of (0, 0.9) the papers' and
# D's; celeba_gp has C's networks and Adam. mnist, WGAN-GP on CIFAR-10, the rows that end in "small" and the number of
# steps of celeba_gp are ours.
RUNS = {
    "mnist": dict(
        dataset="mnist", batch_size=64, steps=10_000,
        model=dict(
            batches_per_step=5, network="ours", latent_dim=100, width=16, noise="normal",
            target=0.0, weight=2.0, power=6, learning_rate=2e-4, beta_1=0.0, beta_2=0.9,
        ),
        reported={},
    ),
    "cifar10_div": dict(
        dataset="cifar10", batch_size=64, steps=10_000,
        model=dict(
            batches_per_step=5, network="D", latent_dim=128, width=128, noise="normal",
            target=0.0, weight=2.0, power=6, learning_rate=2e-4, beta_1=0.0, beta_2=0.9,
        ),
        reported={
            "D, 1,280 of its pictures, steps 8,000 to 9,900": {
                "FID (classifier)": 2.52, "KID (classifier)": 0.030, "precision": 0.84, "recall": 0.63,
                "sharpness": 0.036,
            },
        },
    ),
    "cifar10_gp": dict(
        dataset="cifar10", batch_size=64, steps=10_000,
        model=dict(
            batches_per_step=5, network="D", latent_dim=128, width=128, noise="normal",
            target=1.0, weight=10.0, power=2, learning_rate=2e-4, beta_1=0.0, beta_2=0.9,
        ),
        reported={},
    ),
    "cifar10_div_small": dict(
        dataset="cifar10", batch_size=64, steps=10_000,
        model=dict(
            batches_per_step=5, network="D", latent_dim=128, width=32, noise="normal",
            target=0.0, weight=2.0, power=6, learning_rate=2e-4, beta_1=0.0, beta_2=0.9,
        ),
        reported={},
    ),
    "cifar10_gp_small": dict(
        dataset="cifar10", batch_size=64, steps=10_000,
        model=dict(
            batches_per_step=5, network="D", latent_dim=128, width=32, noise="normal",
            target=1.0, weight=10.0, power=2, learning_rate=2e-4, beta_1=0.0, beta_2=0.9,
        ),
        reported={},
    ),
    "celeba_gp": dict(
        dataset="celeba", batch_size=64, steps=50_000,
        model=dict(
            batches_per_step=5, network="C", latent_dim=100, width=32, noise="uniform",
            target=1.0, weight=10.0, power=2, learning_rate=2e-4, beta_1=0.5, beta_2=0.999,
        ),
        reported={"C": {}},
    ),
}  # fmt: skip

# The panels of curves.png, one per unit, and the columns of log.csv in each.
CURVES = {
    "the critic's loss": ["critic_loss"],
    "the estimate, E[f(x)] - E[f(G(z))]": ["estimate"],
    "the penalty": ["penalty"],
    "G's loss": ["g_loss"],
}


normal = keras.initializers.RandomNormal


def batch_norm():
    """Returns a batch norm layer with the momentum and epsilon of all reports."""
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5)


# No critic has batch norm: with it, f(x) would also depend on the other images of the batch, and the penalty on each
# image's own gradient would no longer be valid (Gulrajani et al., section 4).


def networks_ours(noise, images, width):
    """Builds our networks for 32x32 images."""
    x = layers.Reshape([4, 4, 4 * width])(layers.Dense(4 * 4 * 4 * width, use_bias=False)(noise))
    for channels in (2 * width, width, images.shape[-1]):  # 8x8, 16x16, 32x32
        x = layers.LeakyReLU(0.2)(batch_norm()(x))
        kernel = normal(stddev=0.02)
        x = layers.Conv2DTranspose(channels, 4, 2, "same", use_bias=False, kernel_initializer=kernel)(x)
    y = images
    for i in range(3):  # 16x16, 8x8, 4x4
        y = layers.LeakyReLU(0.2)(layers.Conv2D(width * 2**i, 4, 2, "same", kernel_initializer="he_normal")(y))
    return x, layers.Dense(1, dtype="float32")(layers.Flatten()(y))


def networks_c(noise, images, width):
    """Builds C's networks for 64x64 images."""
    x = layers.Dense(4 * 4 * 8 * width, kernel_initializer=normal(stddev=0.02))(noise)
    x = layers.Reshape([4, 4, 8 * width])(x)
    for channels in (4 * width, 2 * width, width, images.shape[-1]):  # 8x8, 16x16, 32x32, 64x64
        x = layers.ReLU()(batch_norm()(x))
        x = layers.Conv2DTranspose(channels, 4, 2, "same", kernel_initializer=normal(stddev=0.02))(x)
    y = images
    for i in range(4):  # 32x32, 16x16, 8x8, 4x4
        kernel = keras.initializers.TruncatedNormal(stddev=0.02)
        y = layers.LeakyReLU(0.1)(layers.Conv2D(width * 2**i, 5, 2, "same", kernel_initializer=kernel)(y))
    return x, layers.Dense(1, kernel_initializer=normal(stddev=0.02), dtype="float32")(layers.Flatten()(y))


def conv(channels, size=3):
    """Returns a convolution whose initial weights are Xavier uniform, with a gain of sqrt(2)."""
    kernel = keras.initializers.VarianceScaling(2.0, "fan_avg", "uniform")
    return layers.Conv2D(channels, size, 1, "same", kernel_initializer=kernel)


def networks_d(noise, images, width):
    """Builds D's networks for 32x32 images: residual, after Gulrajani et al., appendix F."""
    x = layers.Reshape([4, 4, width])(layers.Dense(4 * 4 * width)(noise))
    for _ in range(3):  # 8x8, 16x16, 32x32
        larger = layers.UpSampling2D()
        y = conv(width)(larger(layers.ReLU()(batch_norm()(x))))
        y = conv(width)(layers.ReLU()(batch_norm()(y)))
        x = layers.add([larger(x), y])
    x = conv(images.shape[-1])(layers.ReLU()(batch_norm()(x)))

    half = layers.AveragePooling2D(2)
    y = half(conv(width)(layers.ReLU()(conv(width)(images))))  # 16x16
    y = layers.add([conv(width, 1)(half(images)), y])
    for i in range(3):  # 8x8, 8x8, 8x8
        z = conv(width)(layers.ReLU()(conv(width)(layers.ReLU()(y))))
        y = layers.add([y, z] if i else [half(y), half(z)])
    y = layers.GlobalAveragePooling2D()(layers.ReLU()(y))
    return x, layers.Dense(1, dtype="float32")(y)


def build_networks(image_shape, network, latent_dim, width, noise):
    """Builds G and f.

    Returns:
        G, from noise (batch, latent_dim) to images (batch, *image_shape) in [-1, 1], and f, from images to the score
        (batch, 1).
    """
    name = {"normal": "noise", "uniform": "uniform_noise"}[noise]  # read by `sample_noise`
    noise, images = keras.Input([latent_dim], name=name), keras.Input(image_shape, name="images")
    x, y = {"ours": networks_ours, "C": networks_c, "D": networks_d}[network](noise, images, width)
    # All outputs are float32, even in mixed precision.
    generator = keras.Model(noise, layers.Activation("tanh", dtype="float32")(x), name="generator")
    if generator.output_shape[1:] != tuple(image_shape):
        raise ValueError(f"network {network!r} is for images of {generator.output_shape[1:]}, not {image_shape}")
    return generator, keras.Model(images, y, name="critic")


def gradient_norm(critic, images):
    """Returns |grad f| at each of `images` (batch, H, W, C), with respect to all of its values: (batch,)."""
    with tf.GradientTape() as tape:
        tape.watch(images)
        scores = critic(images, training=True)
    # The square root has no derivative at 0.
    return tf.sqrt(tf.reduce_sum(tape.gradient(scores, images) ** 2, [1, 2, 3]) + 1e-12)


class WGAN(keras.Model):
    """The generator and the critic, each with its own Adam."""

    def __init__(self, generator, critic, batches_per_step, target, weight, power, learning_rate, beta_1, beta_2, seed):
        super().__init__()
        self.generator, self.critic, self.batches_per_step, self.seed = generator, critic, batches_per_step, seed
        self.target, self.weight, self.power = target, weight, power
        self.c_optimizer = keras.optimizers.Adam(learning_rate, beta_1, beta_2)
        self.g_optimizer = keras.optimizers.Adam(learning_rate, beta_1, beta_2)
        self.c_optimizer.build(critic.trainable_variables)
        self.g_optimizer.build(generator.trainable_variables)
        self.means = [keras.metrics.Mean(name) for name in ("critic_loss", "estimate", "penalty", "g_loss")]
        self.built = True

    @property
    def metrics(self):
        return self.means

    def networks(self):
        """Returns the networks to save, by name; `generate` uses the first."""
        return {"generator": self.generator, "critic": self.critic}

    def sample(self, count, seed):
        """Returns noise (count, latent_dim) and u (count, 1, 1, 1) from U(0, 1); a function of `seed`."""
        noise_seed, u_seed = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
        u = tf.random.stateless_uniform([count, 1, 1, 1], u_seed)
        return sample_noise(self.generator, count, noise_seed), u

    def critic_losses(self, reals, fakes, u):
        """Returns the critic's loss, its estimate and the penalty, for images (batch, H, W, C) in [-1, 1]."""
        real_scores, fake_scores = tf.split(self.critic(tf.concat([reals, fakes], 0), training=True), 2)
        estimate = tf.reduce_mean(real_scores) - tf.reduce_mean(fake_scores)
        norm = gradient_norm(self.critic, u * reals + (1.0 - u) * fakes)
        penalty = self.weight * tf.reduce_mean(tf.abs(norm - self.target) ** self.power)
        return penalty - estimate, estimate, penalty

    def track(self, *values, weight=None):
        for mean, value in zip(self.means, values):
            mean.update_state(value, weight)
        return self.get_metrics_result()

    def train_step(self, images):
        """Updates f on each of the batches in `images`, uint8 (batches_per_step * n, H, W, C), then G once.

        The logged losses of f are those before its last update.
        """
        tf.debugging.assert_type(images, tf.uint8)  # floats would be scaled to a wrong range
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        seed = tf.random.experimental.stateless_fold_in([self.seed, self.g_optimizer.iterations.value], replica)
        for i, reals in enumerate(tf.split(tf.cast(images, tf.float32) / 127.5 - 1.0, self.batches_per_step)):
            noise, u = self.sample(tf.shape(reals)[0], tf.random.experimental.stateless_fold_in(seed, i))
            fakes = self.generator(noise, training=True)
            with tf.GradientTape() as tape:
                losses = self.critic_losses(reals, fakes, u)
            variables = self.critic.trainable_variables
            self.c_optimizer.apply(tape.gradient(losses[0], variables), variables)
        noise, _ = self.sample(tf.shape(reals)[0], tf.random.experimental.stateless_fold_in(seed, -1))
        with tf.GradientTape() as tape:
            g_loss = -tf.reduce_mean(self.critic(self.generator(noise, training=True), training=True))
        variables = self.generator.trainable_variables
        self.g_optimizer.apply(tape.gradient(g_loss, variables), variables)
        return self.track(*losses, g_loss)

    def test_step(self, images):
        """Measures the losses on other real images, uint8 (batch, H, W, C), with noise that is a function of them.

        They differ from the training losses if the critic has memorised its training images, and a little because f and
        G have been updated since and G is in inference mode here.
        """
        tf.debugging.assert_type(images, tf.uint8)  # floats would be scaled to a wrong range
        reals = tf.cast(images, tf.float32) / 127.5 - 1.0
        seed = tf.random.experimental.stateless_fold_in([self.seed, -1], tf.reduce_sum(tf.cast(images, tf.int32)))
        noise, u = self.sample(tf.shape(reals)[0], seed)
        fakes = self.generator(noise, training=False)
        g_loss = -tf.reduce_mean(self.critic(fakes, training=False))
        return self.track(*self.critic_losses(reals, fakes, u), g_loss, weight=tf.shape(reals)[0])


def sample_noise(generator, count, seed):
    """Returns noise (count, latent_dim) from U(-1, 1) or N(0, 1), as `generator` expects; a function of `seed`."""
    noise = generator.inputs[0]
    shape = [count, noise.shape[-1]]
    if noise.name == "uniform_noise":
        return tf.random.stateless_uniform(shape, seed, -1.0, 1.0)
    return tf.random.stateless_normal(shape, seed)


def build(
    image_shape, *, batches_per_step, network, latent_dim, width, noise, target, weight, power, learning_rate, beta_1,
    beta_2, seed=0,
):  # fmt: skip
    """Returns a compiled model for `fit` on uint8 images (batches_per_step * n, *image_shape).

    Args:
        image_shape: (height, width, channels), 32x32 for networks "ours" and "D", 64x64 for "C".
        batches_per_step: updates of f before each update of G, each on n images. If `fit` makes a last, smaller batch,
            this must divide it, too.
        width: channels of all layers in "D"; else of G's last and of f's first hidden layer, doubling with each layer
            away from the image.
        noise: "normal" for N(0, 1), "uniform" for U(-1, 1).
        target, weight, power: of the penalty; 0, k and p for WGAN-DIV, and 1, its weight and 2 for WGAN-GP.
        seed: of the weights and the noise; also sets Python's, NumPy's and TensorFlow's global seeds.

    Raises:
        ValueError: The network is for images of another size.
    """
    keras.utils.set_random_seed(seed)
    generator, critic = build_networks(image_shape, network, latent_dim, width, noise)
    model = WGAN(generator, critic, batches_per_step, target, weight, power, learning_rate, beta_1, beta_2, seed)
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
