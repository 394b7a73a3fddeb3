"""VAE: variational autoencoder (Kingma & Welling 2014, arXiv:1312.6114), and beta-VAE.

An encoder turns an image x into a Gaussian q(z|x) over codes, a decoder turns a code z into an image.
Both learn to maximise the evidence lower bound (ELBO) on log p(x); its negative, in nats, is the loss
(eq. 3; the KL term in closed form, appendix B; z = mean + std * noise, section 2.4):

    L = E_q(z|x)[-log p(x|z)] + KL(q(z|x) || N(0, I)),    KL = 1/2 sum(mean^2 + var - 1 - log var)

On faces the reports B and C minimise, of images of D values and codes of d dimensions, with a weight w of theirs,

    L = |x - decoded|^2 / D + w KL / d,

up to a factor and a constant the former for p(x|z) a Gaussian of variance w D / 2d around the decoded image.

beta-VAE (Higgins et al. 2017, eq. 4) weighs the KL with a beta above 1, for disentangled codes. Report D's,
with p(x|z) a Gaussian of variance 1/2, has up to a constant

    L = |x - decoded|^2 + beta KL
"""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"
if __name__ == "__main__":
    from common import run  # before TensorFlow, whose start-up messages it keeps from the terminal

import keras
import tensorflow as tf
from keras import layers

# One row per experiment, the first is the default. `network`: of the report of that name. `reported`: the figures of
# the reports. Of the MNIST rows A names no optimiser; of celeba_z128 B names no batch size and no length, nor does D of
# its own, whose loss's reductions are open too: ours.
RUNS = {
    "mnist_z100": dict(
        dataset="mnist", batch_size=32, steps=25_000, network="A", latent_dim=100,
        reconstruction="bernoulli", kl_weight=1.0, optimizer="Adam", beta_1=0.9, learning_rate=1e-3,
        reported={"A": {"FID": 25.411}, "E": {"FID": 26.21}},
    ),
    "mnist_z3": dict(
        dataset="mnist", batch_size=32, steps=25_000, network="A", latent_dim=3,
        reconstruction="bernoulli", kl_weight=1.0, optimizer="Adam", beta_1=0.9, learning_rate=1e-3,
        reported={"A": {"FID": 112.661}, "E": {"FID": 102.1}},
    ),
    "mnist_z10": dict(
        dataset="mnist", batch_size=32, steps=25_000, network="A", latent_dim=10,
        reconstruction="bernoulli", kl_weight=1.0, optimizer="Adam", beta_1=0.9, learning_rate=1e-3,
        reported={"A": {"FID": 46.601}, "E": {"FID": 95.49}},
    ),
    "mnist_z64": dict(
        dataset="mnist", batch_size=32, steps=25_000, network="A", latent_dim=64,
        reconstruction="bernoulli", kl_weight=1.0, optimizer="Adam", beta_1=0.9, learning_rate=1e-3,
        reported={"A": {"FID": 25.929}},
    ),
    "cifar10_beta2": dict(
        dataset="cifar10", batch_size=64, steps=50_000, network="D", latent_dim=100,
        reconstruction="squared_error", kl_weight=2.0, optimizer="Adam", beta_1=0.9, learning_rate=1e-4,
        reported={"D": {}},
    ),
    "cifar10_beta4": dict(
        dataset="cifar10", batch_size=64, steps=50_000, network="D", latent_dim=100,
        reconstruction="squared_error", kl_weight=4.0, optimizer="Adam", beta_1=0.9, learning_rate=1e-4,
        reported={"D": {}},
    ),
    "cifar10_beta6": dict(
        dataset="cifar10", batch_size=64, steps=50_000, network="D", latent_dim=100,
        reconstruction="squared_error", kl_weight=6.0, optimizer="Adam", beta_1=0.9, learning_rate=1e-4,
        reported={"D": {}},
    ),
    "celeba_z512": dict(  # 200 epochs of 40,000 images
        dataset="celeba", batch_size=64, steps=125_000, keep="dev_mse", network="C", latent_dim=512,
        reconstruction="mse", kl_weight=1e-2, optimizer="Adam", beta_1=0.5, learning_rate=2e-4,
        reported={"C": {"test MSE": 0.005205}},
    ),
    "celeba_z128": dict(  # 50 epochs
        dataset="celeba", batch_size=64, steps=31_250, keep="dev_mse", network="B", latent_dim=128,
        reconstruction="mse", kl_weight=5e-3, optimizer="Adamax", beta_1=0.9, learning_rate=5e-4,
        reported={"B": {"test MSE": 0.0076}},
    ),
}  # fmt: skip

# The figure of the training curves: a panel per unit, the columns of log.csv in it.
CURVES = {
    "loss": ["loss"],
    "reconstruction loss (nats)": ["reconstruction"],
    "squared error, summed over the image": ["squared_error"],
    "mean squared error": ["mse"],
    "KL (nats)": ["kl"],
}


def encoder_a():
    """The hidden layers of A's encoder of 32x32 images; widths ours."""
    return [layers.Conv2D(c, 4, 2, "same", activation="relu") for c in (32, 64, 128)]  # 16x16, 8x8, 4x4


def decoder_a(channels):
    """A's decoder, to the logits of `channels`; widths ours."""
    network = [layers.Dense(4 * 4 * 128, activation="relu"), layers.Reshape([4, 4, 128])]
    network += [layers.Conv2DTranspose(c, 4, 2, "same", activation="relu") for c in (64, 32)]  # 8x8, 16x16
    return [*network, layers.Conv2DTranspose(channels, 4, 2, "same")]


def encoder_b():
    """B's, of 64x64 images."""
    network = []
    for channels, size in ((128, 3), (256, 5), (512, 5)):  # 32x32, 16x16, 8x8
        network += [layers.Conv2D(channels, size, 1, "same", activation="relu") for _ in range(2)]
        network += [layers.MaxPooling2D()]
    return network


def decoder_b(channels):
    """B's, to 64x64 images."""
    network = [layers.Dense(8 * 8 * 512, activation="relu"), layers.Reshape([8, 8, 512])]
    network += [layers.Conv2DTranspose(512, 4, 2, "same", activation="relu") for _ in range(2)]  # 16x16, 32x32
    return [*network, layers.Conv2DTranspose(channels, 4, 2, "same")]


def encoder_c():
    """C's, of 64x64 images; widths ours."""
    network = []
    for channels in (32, 64, 128, 256):  # 32x32, 16x16, 8x8, 4x4
        network += [layers.Conv2D(channels, 4, 2, "same", use_bias=False), batch_norm(), layers.LeakyReLU(0.01)]
    return network


def decoder_c(channels):
    """C's, to 64x64 images; widths ours."""
    network = [layers.Dense(4 * 4 * 256, use_bias=False), batch_norm(), layers.LeakyReLU(0.01)]
    network += [layers.Reshape([4, 4, 256])]
    for c in (128, 64, 32):  # 8x8, 16x16, 32x32
        network += [layers.Conv2DTranspose(c, 4, 2, "same", use_bias=False)]
        network += [batch_norm(), layers.LeakyReLU(0.01)]
    return [*network, layers.Conv2DTranspose(channels, 4, 2, "same")]


def batch_norm():
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5)


def encoder_d():
    """D's, of 32x32 images; activations ours."""
    sizes = (32, 2), (64, 2), (128, 1), (128, 2)  # 16x16, 8x8, 8x8, 4x4
    network = [layers.Conv2D(c, 4, strides, "same", activation="relu") for c, strides in sizes]
    network += [layers.Conv2D(256, 4, activation="relu"), layers.Flatten()]  # 1x1
    return [*network, layers.Dense(1024, activation="relu")]


def decoder_d(channels):
    """D's, to 32x32 images; activations ours."""
    network = [layers.Dense(c, activation="relu") for c in (1024, 4 * 4 * 256)] + [layers.Reshape([4, 4, 256])]
    sizes = (256, 4, 2), (256, 3, 1), (128, 4, 2), (128, 3, 1), (64, 4, 2)  # 8x8, 8x8, 16x16, 16x16, 32x32
    network += [layers.Conv2DTranspose(*size, "same", activation="relu") for size in sizes]
    return [*network, layers.Conv2DTranspose(channels, 3, 1, "same")]


NETWORKS = {
    "A": (encoder_a, decoder_a),
    "B": (encoder_b, decoder_b),
    "C": (encoder_c, decoder_c),
    "D": (encoder_d, decoder_d),
}


def build_encoder(image_shape, network, latent_dim):
    """Images (batch, *image_shape) in [0, 1] to q's mean and log-variance, each (batch, latent_dim)."""
    x = images = keras.Input(image_shape, name="images")
    for layer in [*NETWORKS[network][0](), layers.Flatten()]:
        x = layer(x)
    # Both networks' outputs are float32 also in mixed precision.
    outputs = [layers.Dense(latent_dim, dtype="float32", name=name)(x) for name in ("mean", "log_variance")]
    return keras.Model(images, outputs, name="encoder")


def build_decoder(image_shape, network, latent_dim):
    """Codes (batch, latent_dim) to the logits (batch, *image_shape) of the pixels."""
    network, as_float32 = NETWORKS[network][1](image_shape[-1]), layers.Activation("linear", dtype="float32")
    return keras.Sequential([keras.Input([latent_dim], name="codes"), *network, as_float32], name="decoder")


def bernoulli_loss(images, logits):
    """-log p(x|z) in nats, (batch,): each pixel a Bernoulli variable of this logit, summed over the image."""
    return tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(images, logits), [1, 2, 3])


def squared_error(images, logits):
    """(batch,): the sum over the image's values, in [0, 1]."""
    return tf.reduce_sum((images - tf.sigmoid(logits)) ** 2, [1, 2, 3])


def mean_squared_error(images, logits):
    """(batch,): the mean over the image's values, in [0, 1]."""
    return tf.reduce_mean((images - tf.sigmoid(logits)) ** 2, [1, 2, 3])


def kl_divergence(mean, log_variance):
    """KL(N(mean, var) || N(0, I)) in nats, (batch,): summed over the latent dimensions."""
    return 0.5 * tf.reduce_sum(mean**2 + tf.exp(log_variance) - 1.0 - log_variance, 1)


class VAE(keras.Model):
    def __init__(self, encoder, decoder, reconstruction, kl_weight, seed):
        super().__init__()
        self.encoder, self.decoder, self.seed = encoder, decoder, seed
        self.reconstruction_loss, self.kl_weight, term = {
            "bernoulli": (bernoulli_loss, kl_weight, "reconstruction"),
            "squared_error": (squared_error, kl_weight, "squared_error"),
            "mse": (mean_squared_error, kl_weight / decoder.input_shape[-1], "mse"),
        }[reconstruction]
        self.means = [keras.metrics.Mean(name) for name in ("loss", term, "kl")]
        self.built = True

    @property
    def metrics(self):
        return self.means

    def networks(self):
        """What is saved, by name; `generate` draws from the first."""
        codes = keras.Input(self.decoder.input_shape[1:], name="codes")
        decoder = keras.Sequential(
            [codes, self.decoder, layers.Activation("sigmoid", dtype="float32", name="sigmoid")], name="decoder"
        )
        return {"decoder": decoder, "encoder": self.encoder}

    def loss_terms(self, images, seed, training):
        """The loss and its two terms, means over the batch of uint8 `images` (batch, H, W, C)."""
        images = tf.cast(images, tf.float32) / 255.0
        mean, log_variance = self.encoder(images, training=training)
        codes = mean + tf.exp(0.5 * log_variance) * tf.random.stateless_normal(tf.shape(mean), seed)
        reconstruction = tf.reduce_mean(self.reconstruction_loss(images, self.decoder(codes, training=training)))
        kl = tf.reduce_mean(kl_divergence(mean, log_variance))
        return reconstruction + self.kl_weight * kl, reconstruction, kl

    def track(self, *values, weight=None):
        for mean, value in zip(self.means, values):
            mean.update_state(value, weight)
        return self.get_metrics_result()

    def train_step(self, images):
        # The noise is a function of seed, step and replica.
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        seed = tf.random.experimental.stateless_fold_in([self.seed, self.optimizer.iterations.value], replica)
        with tf.GradientTape() as tape:
            loss, *terms = self.loss_terms(images, seed, True)
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return self.track(loss, *terms)

    def test_step(self, images):
        # The same noise at every evaluation: the dev curve moves with the weights alone.
        return self.track(*self.loss_terms(images, [self.seed, -1], False), weight=tf.shape(images)[0])


def build(image_shape, *, network, latent_dim, reconstruction, kl_weight, optimizer, beta_1, learning_rate, seed=0):
    """A compiled model for `fit` on uint8 images (batch, H, W, C) of `image_shape`.

    Args:
        image_shape: 32x32 for network "A" and "D", 64x64 for "B" and "C".
        reconstruction: "bernoulli" for the negative ELBO in nats, "squared_error" for beta-VAE's loss, "mse" for that
            on faces.
        kl_weight: of the KL, which is summed over the dimensions, for "mse" their mean. Beta.
        optimizer: a class of keras.optimizers.
    """
    keras.utils.set_random_seed(seed)
    encoder, decoder = (part(image_shape, network, latent_dim) for part in (build_encoder, build_decoder))
    model = VAE(encoder, decoder, reconstruction, kl_weight, seed)
    model.compile(getattr(keras.optimizers, optimizer)(learning_rate, beta_1))
    model.optimizer.build(model.trainable_variables)
    return model


def generate(decoder, count, seed):
    """Images uint8 (count, H, W, C) of `decoder`, from codes of N(0, I) that are a function of `seed`."""
    return to_uint8(decoder, tf.random.stateless_normal([count, decoder.input_shape[-1]], [seed, -2]))


def to_uint8(decoder, codes):
    """Images uint8 (n, H, W, C), the means of p(x|z), of codes (n, latent_dim)."""
    parts = [decoder(codes[i : i + 500], training=False) for i in range(0, len(codes), 500)]
    return tf.cast(tf.round(tf.concat(parts, 0) * 255.0), tf.uint8).numpy()


if __name__ == "__main__":
    run.train(RUNS, build, generate, CURVES)
