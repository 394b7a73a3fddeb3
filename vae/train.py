"""VAE: variational autoencoder (Kingma & Welling 2014, arXiv:1312.6114), and beta-VAE.

An encoder turns an image x into a Gaussian q(z|x) over codes; a decoder turns a code z into an image.
Both learn to maximise the evidence lower bound (ELBO) on log p(x); its negative, in nats, is the loss
(eq. 3, with the KL in closed form, appendix B, and z = mean + std * noise, section 2.4):

    L = E_q(z|x)[-log p(x|z)] + KL(q(z|x) || N(0, I)),    KL = 1/2 sum(mean^2 + var - 1 - log var)

beta-VAE (Higgins et al. 2017, eq. 4) multiplies the KL by beta > 1 to disentangle the codes. If p(x|z) is a Gaussian of
fixed variance, the first term is a weighted mean squared error (MSE). Up to a factor, reports B, C and D minimise

    L = weight * MSE + kl_weight * KL
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

# One row per experiment; the first is the default. `network`: the report whose networks are used. `reported`: the
# reports' numbers by source, under our names for the same measures; {step: value} is a curve, a column of log.csv.
# `keep`: of all evaluations, the networks with the lowest value in this column are saved.
# Our KL is summed over the latent dimensions: where a report averages over them, `kl_weight` is its weight divided by
# their number. D's KL lacks the factor 1/2, and its images are in [0, 255]; the weights make up for both.
RUNS = {
    "mnist_z100": dict(
        dataset="mnist", batch_size=32, steps=25_000,
        model=dict(
            network="A", latent_dim=100, reconstruction="bernoulli", weight=1.0, kl_weight=1.0,
            optimizer="Adam", beta_1=0.9, learning_rate=1e-3,
        ),
        reported={
            "A, text": {"FID (Inception, 3,000 training images)": 25.411},
            "A, figure": {"dev_loss": {25_000: 145}, "dev_reconstruction": {25_000: 123}, "dev_kl": {25_000: 21.71}},
            "E, text": {"FID (Inception, 3,000 training images)": 26.21},
            "E, figure": {
                "dev_loss": {10_000: 149.6, 25_000: 145}, "dev_reconstruction": {14_000: 125.9, 25_000: 122.5},
                "dev_kl": {25_000: 22.5},
            },
        },
    ),
    "mnist_z3": dict(
        dataset="mnist", batch_size=32, steps=25_000,
        model=dict(
            network="A", latent_dim=3, reconstruction="bernoulli", weight=1.0, kl_weight=1.0,
            optimizer="Adam", beta_1=0.9, learning_rate=1e-3,
        ),
        reported={
            "A, text": {"FID (Inception, 3,000 training images)": 112.661},
            "A, figure": {"dev_loss": {25_000: 271}, "dev_reconstruction": {25_000: 271}, "dev_kl": {25_000: 0.000002}},
            "E, text": {"FID (Inception, 3,000 training images)": 102.1},
            "E, figure": {
                "dev_loss": {10_000: 212.4, 25_000: 207}, "dev_reconstruction": {14_000: 205, 25_000: 200},
                "dev_kl": {25_000: 6.4},
            },
        },
    ),
    "mnist_z10": dict(
        dataset="mnist", batch_size=32, steps=25_000,
        model=dict(
            network="A", latent_dim=10, reconstruction="bernoulli", weight=1.0, kl_weight=1.0,
            optimizer="Adam", beta_1=0.9, learning_rate=1e-3,
        ),
        reported={
            "A, text": {"FID (Inception, 3,000 training images)": 46.601},
            "A, figure": {"dev_loss": {25_000: 187}, "dev_reconstruction": {25_000: 178}, "dev_kl": {25_000: 8.52}},
            "E, text": {"FID (Inception, 3,000 training images)": 95.49},
            "E, figure": {
                "dev_loss": {10_000: 206.7, 25_000: 201}, "dev_reconstruction": {14_000: 198.4, 25_000: 195},
                "dev_kl": {25_000: 6.4},
            },
        },
    ),
    "mnist_z64": dict(
        dataset="mnist", batch_size=32, steps=25_000,
        model=dict(
            network="A", latent_dim=64, reconstruction="bernoulli", weight=1.0, kl_weight=1.0,
            optimizer="Adam", beta_1=0.9, learning_rate=1e-3,
        ),
        reported={"A, text": {"FID (Inception, 3,000 training images)": 25.929}},
    ),
    "cifar10_beta2": dict(  # 50 epochs of 50,000 images
        dataset="cifar10", batch_size=64, steps=39_100,
        model=dict(
            network="D", latent_dim=100, reconstruction="mse", weight=255.0**2, kl_weight=2 * 2.0,
            optimizer="Adam", beta_1=0.9, learning_rate=1e-4,
        ),
        reported={
            "D, figure": {
                "mse": {
                    782: 0.2537, 3_128: 0.0723, 3_910: 0.0384, 4_692: 0.0246, 5_474: 0.0192, 7_820: 0.0146,
                    16_422: 0.0123, 39_100: 0.0105,
                },
                "kl": {782: 24.5, 3_128: 41.5, 4_692: 46, 7_820: 52.5, 16_422: 58.5, 39_100: 64},
            },
        },
    ),
    "cifar10_beta4": dict(
        dataset="cifar10", batch_size=64, steps=39_100,
        model=dict(
            network="D", latent_dim=100, reconstruction="mse", weight=255.0**2, kl_weight=2 * 4.0,
            optimizer="Adam", beta_1=0.9, learning_rate=1e-4,
        ),
        reported={
            "D, figure": {"mse": {39_100: 0.0123}, "kl": {39_100: 42}},
        },
    ),
    "cifar10_beta6": dict(
        dataset="cifar10", batch_size=64, steps=39_100,
        model=dict(
            network="D", latent_dim=100, reconstruction="mse", weight=255.0**2, kl_weight=2 * 6.0,
            optimizer="Adam", beta_1=0.9, learning_rate=1e-4,
        ),
        reported={
            "D, figure": {"mse": {39_100: 0.0143}, "kl": {39_100: 32}},
        },
    ),
    "celeba_z512": dict(  # 200 epochs of 40,000 images
        dataset="celeba", batch_size=64, steps=125_000, keep="dev_loss",
        model=dict(
            network="C", latent_dim=512, reconstruction="mse", weight=1.0, kl_weight=1e-2 / 512,
            optimizer="Adam", beta_1=0.5, learning_rate=2e-4,
        ),
        reported={"C, text": {"test MSE, sampled codes": 0.005205}},
    ),
    "celeba_z512_weak_kl": dict(  # C tried this too
        dataset="celeba", batch_size=64, steps=125_000, keep="dev_loss",
        model=dict(
            network="C", latent_dim=512, reconstruction="mse", weight=1.0, kl_weight=1e-5 / 512,
            optimizer="Adam", beta_1=0.5, learning_rate=2e-4,
        ),
        reported={"C": {}},
    ),
    "celeba_z128": dict(  # 10 epochs of 1,225 batches
        dataset="celeba", batch_size=32, steps=12_250,
        model=dict(
            network="B", latent_dim=128, reconstruction="mse", weight=1.0, kl_weight=5e-3 / 128,
            optimizer="Adamax", beta_1=0.9, learning_rate=5e-4,
        ),
        reported={
            "B, text": {"test MSE": 0.0076},
            "B, figure": {"mse": {4_000: 0.010, 12_250: 0.0076}, "kl": {12_250: 0.58 * 128}},
        },
    ),
}  # fmt: skip

# The panels of curves.png, one per unit, and the columns of log.csv in each.
CURVES = {
    "loss": ["loss"],
    "reconstruction loss (nats)": ["reconstruction"],
    "mean squared error, pixels in [0, 1]": ["mse"],
    "KL (nats)": ["kl"],
}

normal = keras.initializers.RandomNormal


def uniform(fan_in):
    """Returns layer arguments for PyTorch's default initial weights and biases, U(-1, 1) / sqrt(fan_in).

    For a transposed convolution, PyTorch counts the fan-in over the output channels.
    """
    bound = fan_in**-0.5
    return {f"{name}_initializer": keras.initializers.RandomUniform(-bound, bound) for name in ("kernel", "bias")}


def batch_norm(**options):
    """Returns a batch norm layer with the momentum and epsilon of all reports."""
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, **options)


def heads(x, latent_dim, initializers):
    """Returns the mean and the log-variance of q(z|x), in float32 even in mixed precision."""
    return [layers.Dense(latent_dim, dtype="float32", name=name, **initializers())(x)
            for name in ("mean", "log_variance")]  # fmt: skip


def encoder_a(x, latent_dim):
    """Builds A's and E's encoder for 32x32 images.

    Units of its dense layer may output 0 for every image; the code then carries less information.
    """
    for channels, strides in ((16, 1), (32, 2), (32, 1), (16, 2)):  # 32x32, 16x16, 16x16, 8x8
        x = layers.Conv2D(channels, 3, strides, "same", activation="relu", **uniform(9 * x.shape[-1]))(x)
    x = layers.Flatten()(x)
    x = layers.Dense(2 * latent_dim, activation="relu", **uniform(x.shape[-1]))(x)
    return heads(x, latent_dim, lambda: uniform(2 * latent_dim))


def decoder_a(x, channels):
    """Builds A's and E's decoder."""
    latent_dim = x.shape[-1]
    x = layers.Dense(latent_dim, activation="relu", name="hidden", **uniform(latent_dim))(x)
    x = layers.Dense(8 * 8 * 16, **uniform(latent_dim))(x)
    x = layers.Reshape([8, 8, 16])(x)
    for c, strides in ((32, 2), (32, 1), (16, 2)):  # 16x16, 16x16, 32x32
        x = layers.Conv2DTranspose(c, 3, strides, "same", activation="relu", **uniform(9 * c))(x)
    return layers.Conv2DTranspose(channels, 3, 1, "same", **uniform(9 * channels))(x)


def encoder_b(x, latent_dim):
    """Builds B's encoder for 64x64 images, but with PyTorch's default initial weights."""
    for channels, size in ((128, 3), (256, 5), (512, 5)):  # 32x32, 16x16, 8x8
        for _ in range(2):
            x = layers.Conv2D(channels, size, 1, "same", activation="relu", **uniform(size**2 * x.shape[-1]))(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Flatten()(x)
    return heads(x, latent_dim, lambda: uniform(x.shape[-1]))


def decoder_b(x, channels):
    """Builds B's decoder, but with PyTorch's default initial weights."""
    x = layers.Dense(8 * 8 * 512, **uniform(x.shape[-1]))(x)
    x = layers.Reshape([8, 8, 512])(x)
    for _ in range(2):  # 16x16, 32x32
        x = layers.Conv2DTranspose(512, 4, 2, "same", activation="relu", **uniform(16 * 512))(x)
    return layers.Conv2DTranspose(channels, 4, 2, "same", **uniform(16 * channels))(x)


def encoder_c(x, latent_dim):
    """Builds C's encoder for 64x64 images."""
    for channels in (32, 64, 128, 256):  # 32x32, 16x16, 8x8, 4x4
        x = layers.Conv2D(channels, 5, 2, "same", kernel_initializer=keras.initializers.TruncatedNormal(stddev=0.02))(x)
        x = layers.LeakyReLU(0.01)(batch_norm()(x))
    return heads(layers.Flatten()(x), latent_dim, lambda: dict(kernel_initializer=normal(stddev=0.02)))


def decoder_c(x, channels):
    """Builds C's decoder, which ends in tanh(y) / 2 + 1/2, the sigmoid of 2y."""
    x = layers.Dense(4 * 4 * 256, kernel_initializer=normal(stddev=0.02))(x)
    x = layers.Reshape([4, 4, 256])(x)
    for c in (128, 64, 32, channels):  # 8x8, 16x16, 32x32, 64x64
        x = layers.LeakyReLU(0.01)(batch_norm()(x))
        x = layers.Conv2DTranspose(c, 4, 2, "same", kernel_initializer=normal(stddev=0.02))(x)
    return layers.Rescaling(2.0)(x)


def encoder_d(x, latent_dim):
    """Builds D's encoder for 32x32 images, which it scales to [0, 255].

    The dense layers have PyTorch's default initial weights instead of D's. D calls its normal distributions truncated,
    but Jittor truncates them at +-2, a hundred standard deviations.
    """
    x = layers.Rescaling(255.0)(x)
    shapes = (32, 4, 2, "same"), (64, 4, 2, "same"), (128, 3, 1, "same"), (128, 4, 2, "same"), (256, 4, 1, "valid")
    for shape in shapes:  # 16x16, 8x8, 8x8, 4x4, 1x1
        x = layers.Conv2D(*shape, activation="relu", kernel_initializer=normal(stddev=0.02))(x)
        x = batch_norm(gamma_initializer=normal(1.0, 0.02))(x)
    x = layers.Dense(1024, **uniform(256))(layers.Flatten()(x))
    return heads(x, latent_dim, lambda: uniform(1024))


def decoder_d(x, channels):
    """Builds D's decoder, which has no output activation."""
    for units in (1024, 4 * 4 * 256):
        x = layers.Dense(units, activation="relu", **uniform(x.shape[-1]))(x)
    x = layers.Reshape([4, 4, 256])(x)
    for shape in ((256, 4, 2), (256, 3, 1), (128, 4, 2), (128, 3, 1), (64, 4, 2)):  # 8x8, 8x8, 16x16, 16x16, 32x32
        x = layers.Conv2DTranspose(*shape, "same", activation="relu", kernel_initializer=normal(stddev=0.02))(x)
        x = batch_norm(gamma_initializer=normal(1.0, 0.02))(x)
    x = layers.Conv2DTranspose(channels, 3, 1, "same", kernel_initializer=normal(stddev=0.02))(x)
    return layers.Rescaling(1 / 255)(x)


# By report: the encoder, the decoder, and the function that turns the decoder's output into pixels.
NETWORKS = {
    "A": (encoder_a, decoder_a, tf.sigmoid),
    "B": (encoder_b, decoder_b, tf.sigmoid),
    "C": (encoder_c, decoder_c, tf.sigmoid),
    "D": (encoder_d, decoder_d, tf.identity),
}


def build_networks(image_shape, network, latent_dim):
    """Builds the encoder and the decoder.

    Returns:
        The encoder, from images (batch, *image_shape) in [0, 1] to q's mean and log-variance, each (batch, latent_dim),
        and the decoder, from codes (batch, latent_dim) to pixels (batch, *image_shape) before the last activation.
    """
    encode, decode, _ = NETWORKS[network]
    images, codes = keras.Input(image_shape, name="images"), keras.Input([latent_dim], name="codes")
    encoder = keras.Model(images, encode(images, latent_dim), name="encoder")
    outputs = layers.Activation("linear", dtype="float32")(decode(codes, image_shape[-1]))  # even in mixed precision
    if outputs.shape[1:] != tuple(image_shape):
        raise ValueError(f"network {network!r} is for images of {outputs.shape[1:]}, not {image_shape}")
    return encoder, keras.Model(codes, outputs, name="decoder")


def bernoulli_loss(images, logits):
    """Returns -log p(x|z) in nats, (batch,), summed over the pixels: Bernoulli variables with these logits.

    As usual, a grey level in [0, 1] stands for the probability that its pixel is 1.
    """
    return tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(images, logits), [1, 2, 3])


def mean_squared_error(images, decoded):
    """Returns the mean squared error over each image's values, which are in [0, 1]: (batch,)."""
    return tf.reduce_mean((images - decoded) ** 2, [1, 2, 3])


def kl_divergence(mean, log_variance):
    """Returns KL(N(mean, var) || N(0, I)) in nats, (batch,), summed over the latent dimensions."""
    return 0.5 * tf.reduce_sum(mean**2 + tf.exp(log_variance) - 1.0 - log_variance, 1)


class VAE(keras.Model):
    """The encoder and the decoder, with one optimizer."""

    def __init__(self, encoder, decoder, to_pixels, reconstruction, weight, kl_weight, seed):
        super().__init__()
        self.encoder, self.decoder, self.to_pixels, self.seed = encoder, decoder, to_pixels, seed
        self.reconstruction, self.weight, self.kl_weight = reconstruction, weight, kl_weight
        term = "reconstruction" if reconstruction == "bernoulli" else "mse"
        self.means = [keras.metrics.Mean(name) for name in ("loss", term, "kl")]
        self.built = True

    @property
    def metrics(self):
        return self.means

    def networks(self):
        """Returns the networks to save, by name; `generate` uses the first, whose images are in [0, 1]."""
        codes = keras.Input(self.decoder.input_shape[1:], name="codes")
        last = layers.Activation("sigmoid", dtype="float32")
        if self.to_pixels is tf.identity:
            last = layers.ReLU(max_value=1.0, dtype="float32")  # clips to [0, 1]
        return {"decoder": keras.Sequential([codes, self.decoder, last], name="decoder"), "encoder": self.encoder}

    def loss_terms(self, images, seed, training):
        """Returns the loss, the reconstruction term and the KL: means over uint8 images (batch, H, W, C)."""
        tf.debugging.assert_type(images, tf.uint8)  # floats would be scaled to a wrong range
        tf.debugging.assert_rank(images, 4)  # without channels, the errors would be between different images
        images = tf.cast(images, tf.float32) / 255.0
        mean, log_variance = self.encoder(images, training=training)
        codes = mean + tf.exp(0.5 * log_variance) * tf.random.stateless_normal(tf.shape(mean), seed)
        outputs = self.decoder(codes, training=training)
        if self.reconstruction == "bernoulli":
            reconstruction = tf.reduce_mean(bernoulli_loss(images, outputs))
        else:
            reconstruction = tf.reduce_mean(mean_squared_error(images, self.to_pixels(outputs)))
        kl = tf.reduce_mean(kl_divergence(mean, log_variance))
        return self.weight * reconstruction + self.kl_weight * kl, reconstruction, kl

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
        # The noise is the same at every evaluation, so that the dev curve changes only with the weights.
        return self.track(*self.loss_terms(images, [self.seed, -1], False), weight=tf.shape(images)[0])


def build(
    image_shape, *, network, latent_dim, reconstruction, weight, kl_weight, optimizer, beta_1, learning_rate, seed=0
):
    """Returns a compiled model for `fit` on uint8 images (batch, *image_shape).

    Args:
        image_shape: (height, width, channels), 32x32 for networks "A" and "D", 64x64 for "B" and "C".
        reconstruction: "bernoulli" for -log p(x|z) in nats (not with network "D"), or "mse" for the mean squared error
            of pixels in [0, 1].
        weight: the weight of the reconstruction term.
        kl_weight: the weight of the KL in nats, summed over the dimensions (beta).
        optimizer: the name of a class in keras.optimizers that has a `beta_1`.
        seed: of the weights and the noise; also sets Python's, NumPy's and TensorFlow's global seeds.

    Raises:
        ValueError: The network is for images of another size, or not for this reconstruction term.
    """
    to_pixels = NETWORKS[network][2]
    terms = ["mse"] if to_pixels is tf.identity else ["bernoulli", "mse"]  # the pixels have no logits
    if reconstruction not in terms:
        raise ValueError(f"the reconstruction term of network {network!r} is one of {terms}, not {reconstruction!r}")
    keras.utils.set_random_seed(seed)
    encoder, decoder = build_networks(image_shape, network, latent_dim)
    model = VAE(encoder, decoder, to_pixels, reconstruction, weight, kl_weight, seed)
    # Keras' loss scale is part of its own `train_step` alone. Without it, float16 is too coarse for an MSE.
    model.compile(getattr(keras.optimizers, optimizer)(learning_rate, beta_1=beta_1), auto_scale_loss=False)
    model.optimizer.build(model.trainable_variables)
    return model


def generate(decoder, count, seed):
    """Returns uint8 images (count, H, W, C) from `decoder`; the codes, from N(0, I), are a function of `seed`."""
    return to_uint8(decoder, tf.random.stateless_normal([count, decoder.input_shape[-1]], [seed, -2]))


def to_uint8(decoder, codes):
    """Returns uint8 images (n, H, W, C) for codes (n, latent_dim): the means of p(x|z)."""
    parts = (decoder(codes[i : i + 500], training=False) for i in range(0, len(codes), 500))
    return tf.concat([tf.cast(tf.round(part * 255.0), tf.uint8) for part in parts], 0).numpy()


if __name__ == "__main__":
    train(RUNS, build, generate, CURVES)
