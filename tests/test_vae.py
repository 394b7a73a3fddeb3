import keras
import numpy as np
import pytest
import tensorflow as tf

import vae.test
from common import data, run
from vae import train


def build(latent_dim, network="A", **changes):
    row = {"reconstruction": "bernoulli", "kl_weight": 1.0, "optimizer": "Adam", "beta_1": 0.9, "learning_rate": 1e-3}
    return train.build((32, 32, 1), network=network, latent_dim=latent_dim, **row | changes)


def test_kl_by_hand():
    """KL(N(m, s^2) || N(0, 1)) = (m^2 + s^2 - 1) / 2 - log s, summed over the dimensions."""
    mean = tf.constant([[0.0, 0.0], [1.0, -2.0], [0.0, 3.0]])
    variance = np.array([[1.0, 1.0], [1.0, 1.0], [4.0, 0.25]])
    expected = [0.0, 0.5 + 2.0, (4 - 1) / 2 - np.log(2) + (9 + 0.25 - 1) / 2 - np.log(0.5)]
    kl = train.kl_divergence(mean, tf.math.log(tf.constant(variance, tf.float32)))
    np.testing.assert_allclose(kl, expected, rtol=1e-6, atol=1e-6)


def test_kl_against_monte_carlo():
    rng = np.random.default_rng(0)
    mean, log_variance = rng.normal(size=[3, 5]), rng.normal(size=[3, 5])
    z = mean + np.exp(log_variance / 2) * rng.normal(size=[400_000, 3, 5])
    log_q = -0.5 * ((z - mean) ** 2 / np.exp(log_variance) + log_variance)
    estimate = (log_q + 0.5 * z**2).sum(-1)
    error = estimate.std(0) / 400_000**0.5
    kl = train.kl_divergence(tf.constant(mean), tf.constant(log_variance)).numpy()
    assert (abs(kl - estimate.mean(0)) < 5 * error).all() and (error < 0.02 * kl).all()


def test_reconstruction_loss_is_the_bernoulli_likelihood():
    rng = np.random.default_rng(0)
    x, logits = rng.uniform(size=[4, 3, 5, 2]), 3 * rng.normal(size=[4, 3, 5, 2])
    p = 1 / (1 + np.exp(-logits))
    expected = -(x * np.log(p) + (1 - x) * np.log(1 - p)).sum((1, 2, 3))
    np.testing.assert_allclose(train.bernoulli_loss(tf.constant(x), tf.constant(logits)), expected, rtol=1e-9)


def constant_vae(**changes):
    """A VAE whose every weight is 0: q is N(0, I), every pixel's probability one half."""
    model = build(5, **changes)
    model.set_weights([np.zeros(w.shape, w.dtype) for w in model.get_weights()])
    return model


def test_the_losss_scaling():
    """Summed over pixels and dimensions, a mean over the batch: the negative ELBO of one image in nats."""
    for count in (1, 7):
        images = np.random.default_rng(0).integers(0, 256, [count, 32, 32, 1], np.uint8)
        loss, reconstruction, kl = constant_vae().loss_terms(tf.constant(images), [0, 0], False)
        assert float(reconstruction) == pytest.approx(32 * 32 * np.log(2), rel=1e-6)
        assert float(kl) == 0 and float(loss) == float(reconstruction)
    model = constant_vae()
    model.encoder.get_layer("mean").bias.assign([2.0] * 5)
    model.decoder.layers[-2].bias.assign([1.0])
    loss, reconstruction, kl = model.loss_terms(tf.constant(images), [0, 0], False)
    x = images / 255
    expected = (x * np.log1p(np.exp(-1)) + (1 - x) * np.log1p(np.exp(1))).sum((1, 2, 3)).mean()
    assert float(kl) == pytest.approx(5 * 2.0) and float(reconstruction) == pytest.approx(expected, rel=1e-5)
    assert float(loss) == pytest.approx(expected + 10, rel=1e-5)


def test_the_faces_losss_scaling():
    """A mean over the image's values, and the weight times a mean over the dimensions."""
    model = constant_vae(reconstruction="mse", kl_weight=0.3)
    model.encoder.get_layer("mean").bias.assign([2.0, 0.0, 0.0, 0.0, 0.0])
    images = np.random.default_rng(0).integers(0, 256, [7, 32, 32, 1], np.uint8)
    loss, mse, kl = model.loss_terms(tf.constant(images), [0, 0], False)
    assert float(mse) == pytest.approx(((images / 255 - 0.5) ** 2).mean(), rel=1e-5)  # the logit 0 is grey
    assert float(kl) == pytest.approx(2.0) and float(loss) == pytest.approx(float(mse) + 0.3 * 2.0 / 5, rel=1e-5)
    assert [metric.name for metric in model.metrics] == ["loss", "mse", "kl"]


def test_beta_scales_the_kl_and_nothing_else():
    """beta-VAE's loss is the squared error, summed over the image, plus beta times the KL."""
    images = tf.constant(np.random.default_rng(0).integers(0, 256, [4, 32, 32, 3], np.uint8))
    rows = [train.RUNS[f"cifar10_beta{beta}"] for beta in (2, 4, 6)]
    models = [train.build((32, 32, 3), **{k: v for k, v in row.items() if k not in run.OURS}) for row in rows]
    losses = [[float(value) for value in model.loss_terms(images, [0, 0], False)] for model in models]
    for beta, (loss, error, kl) in zip((2, 4, 6), losses):
        assert [error, kl] == losses[0][1:] and kl > 0
        assert loss == pytest.approx(error + beta * kl, rel=1e-6)
    model, x = models[0], images.numpy() / np.float32(255)
    mean, log_variance = model.encoder(x)
    codes = mean + tf.exp(0.5 * log_variance) * tf.random.stateless_normal(mean.shape, [0, 0])
    decoded = model.networks()["decoder"](codes).numpy()
    assert losses[0][1] == pytest.approx(((x - decoded) ** 2).sum((1, 2, 3)).mean(), rel=1e-5)
    same = [{k: v for k, v in row.items() if k not in ("kl_weight", "reported")} for row in rows]
    assert same[0] == same[1] == same[2] and [row["kl_weight"] for row in rows] == [2, 4, 6]


def test_the_networks_on_cifar10_are_the_reports():
    model = train.build((32, 32, 3), **{k: v for k, v in train.RUNS["cifar10_beta2"].items() if k not in run.OURS})
    kinds = keras.layers.Conv2D, keras.layers.Conv2DTranspose
    shapes = [
        [(layer.kernel_size[0], *layer.output.shape[2:]) for layer in network.layers if isinstance(layer, kinds)]
        for network in (model.encoder, model.decoder)
    ]
    assert shapes[0] == [(4, 16, 32), (4, 8, 64), (4, 8, 128), (4, 4, 128), (4, 1, 256)]
    assert shapes[1] == [(4, 8, 256), (3, 8, 256), (4, 16, 128), (3, 16, 128), (4, 32, 64), (3, 32, 3)]
    dense = [layer.units for layer in [*model.encoder.layers, *model.decoder.layers] if "dense" in layer.name]
    assert dense == [1024, 1024, 4 * 4 * 256] and model.encoder.get_layer("mean").units == 100


def test_mean_squared_error_is_each_images():
    rng = np.random.default_rng(0)
    x, logits = rng.uniform(size=[4, 3, 5, 2]), rng.normal(size=[4, 3, 5, 2])
    expected = [((a - 1 / (1 + np.exp(-b))) ** 2).mean() for a, b in zip(x, logits)]
    np.testing.assert_allclose(train.mean_squared_error(tf.constant(x), tf.constant(logits)), expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "sizes", "optimizer", "beta_1"),
    [
        # (kernel, channels): encoder's convolutions, then the decoder's
        ("celeba_z128", [(3, 128), (3, 128), (5, 256), (5, 256), (5, 512), (5, 512), (4, 512), (4, 512), (4, 3)],
         keras.optimizers.Adamax, 0.9),
        ("celeba_z512", [(4, 32), (4, 64), (4, 128), (4, 256), (4, 128), (4, 64), (4, 32), (4, 3)],
         keras.optimizers.Adam, 0.5),
    ],
)  # fmt: skip
def test_the_networks_of_the_faces_are_the_reports(name, sizes, optimizer, beta_1):
    row = train.RUNS[name]
    model = train.build((64, 64, 3), **{key: value for key, value in row.items() if key not in run.OURS})
    convolutions = [
        (layer.kernel_size[0], layer.filters)
        for layer in [*model.encoder.layers, *model.decoder.layers]
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.Conv2DTranspose))
    ]
    assert convolutions == sizes
    assert model.encoder.get_layer("mean").input.shape[1] == {"celeba_z128": 32768, "celeba_z512": 4096}[name]
    assert model.encoder.get_layer("mean").output.shape[1] == row["latent_dim"]
    assert model.decoder.output_shape == (None, 64, 64, 3)
    assert type(model.optimizer) is optimizer and float(model.optimizer.beta_1) == beta_1
    assert float(model.optimizer.learning_rate) == pytest.approx(row["learning_rate"])


def test_a_probe_finds_what_is_linear_and_no_more():
    """One label along a direction of the codes, one that is chance, one that only a curve could tell."""
    rng = np.random.default_rng(0)
    codes, others = rng.normal(size=[2000, 8]), rng.normal(size=[2000, 8])

    def accuracy(label):
        return vae.test.probe(codes, label(codes).astype(int), others, label(others).astype(int))

    linear, chance = accuracy(lambda z: z[:, 0] - z[:, 3] > 0.5)
    assert linear > 0.97 and chance == pytest.approx(0.64, abs=0.03)
    for label in (lambda z: rng.uniform(size=len(z)) > 0.3, lambda z: np.abs(z[:, 0]) > 0.39):
        found, chance = accuracy(label)
        assert found == pytest.approx(chance, abs=0.02) and chance == pytest.approx(0.7, abs=0.03)


def test_codes_are_drawn_from_q():
    """The decoder sees mean + std * noise: caught by a decoder that returns its codes."""
    model = constant_vae()
    model.encoder.get_layer("mean").bias.assign([1.0, 2.0, 3.0, 4.0, 5.0])
    model.encoder.get_layer("log_variance").bias.assign([np.log(0.25)] * 5)
    seen = []
    model.decoder = lambda codes, training: seen.append(codes.numpy()) or tf.zeros([len(codes), 32, 32, 1])
    model.loss_terms(tf.zeros([20_000, 32, 32, 1], tf.uint8), [0, 1], False)
    np.testing.assert_allclose(seen[0].mean(0), [1, 2, 3, 4, 5], atol=0.02)
    np.testing.assert_allclose(seen[0].std(0), 0.5, atol=0.02)


def test_a_vae_learns(digits):
    """300 steps halve the dev loss of the untrained, and samples have ink where digits have it."""
    model = build(10)
    dev = tf.data.Dataset.from_tensor_slices(digits.dev.images).batch(250)
    before = model.evaluate(dev, verbose=0, return_dict=True)["loss"]
    model.fit(data.batches(digits.train.images, 32, 0, 0, 300), verbose=0)
    after = model.evaluate(dev, verbose=0, return_dict=True)
    assert after["loss"] == pytest.approx(after["reconstruction"] + after["kl"], rel=1e-5)
    assert after["loss"] < 180 < 700 < before  # a VAE without its code stays above 200
    assert after["kl"] > 5
    samples = train.generate(model.networks()["decoder"], 200, 0)
    ink = samples.mean((0, 3)) / 255
    assert np.corrcoef(ink.ravel(), digits.test.images.mean((0, 3)).ravel())[0, 1] > 0.9


def test_the_saved_decoder_needs_none_of_our_code(tmp_path):
    model = build(4)
    model.networks()["decoder"].save(tmp_path / "decoder.keras")
    decoder = keras.saving.load_model(tmp_path / "decoder.keras")
    codes = np.random.default_rng(0).normal(size=[3, 4]).astype(np.float32)
    logits = model.decoder(codes).numpy()
    np.testing.assert_allclose(decoder(codes), 1 / (1 + np.exp(-logits)), rtol=1e-5)
    assert decoder.inputs[0].name == "codes"
