import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

import vae.test
from common import datasets, devices
from vae import train

ROW = train.RUNS["mnist_z10"]["model"]


def pictures(*shape):
    return tf.constant(np.random.default_rng(0).integers(0, 256, shape, np.uint8))


def build(shape=(32, 32, 1), **changes):
    return train.build(shape, **ROW | changes)


def constant_vae(shape=(32, 32, 1), mean=0.0, log_variance=0.0, output=0.0, **changes):
    """Returns a VAE whose weights are 0 except the last layers' biases: q and the output are equal for all images."""
    model = build(shape, **changes)
    model.set_weights([np.zeros(w.shape, w.dtype) for w in model.get_weights()])
    for name, value in (("mean", mean), ("log_variance", log_variance)):
        model.encoder.get_layer(name).bias.assign(np.broadcast_to(value, [model.encoder.output_shape[0][1]]))
    last = [layer for layer in model.decoder.layers if "conv" in layer.name][-1]
    last.bias.assign(np.full(last.bias.shape, output))
    return model


def test_kl_is_the_integral():
    """The integral is of q log(q / p) over each dimension, summed over the dimensions."""
    rng = np.random.default_rng(0)
    mean, log_variance = rng.normal(size=[3, 5]), rng.normal(size=[3, 5])
    z = np.linspace(-20, 20, 20_001)[:, None, None]
    q = stats.norm(mean, np.exp(log_variance / 2))
    expected = np.trapezoid(q.pdf(z) * (q.logpdf(z) - stats.norm.logpdf(z)), dx=0.002, axis=0).sum(1)
    np.testing.assert_allclose(train.kl_divergence(tf.constant(mean), tf.constant(log_variance)), expected, rtol=1e-6)


def test_the_losses_of_each_image():
    rng = np.random.default_rng(0)
    x, logits = rng.uniform(size=[4, 3, 5, 2]), 3 * rng.normal(size=[4, 3, 5, 2])
    p = 1 / (1 + np.exp(-logits))
    expected = -(x * np.log(p) + (1 - x) * np.log(1 - p)).sum((1, 2, 3))
    np.testing.assert_allclose(train.bernoulli_loss(tf.constant(x), tf.constant(logits)), expected, rtol=1e-9)
    expected = [np.square(a - b).mean() for a, b in zip(x, p)]
    np.testing.assert_allclose(train.mean_squared_error(tf.constant(x), tf.constant(p)), expected, rtol=1e-9)


@pytest.mark.parametrize("name", train.RUNS)
def test_the_loss_is_the_reports(name):
    """The loss is as in the report, with q and the output equal for all images; so are the saved decoder's pixels."""
    row = train.RUNS[name]
    network, d = row["model"]["network"], row["model"]["latent_dim"]
    shape = {"mnist": (32, 32, 1), "cifar10": (32, 32, 3), "celeba": (64, 64, 3)}[row["dataset"]]
    output = -40.0 if network == "D" else 0.7
    model = constant_vae(shape, np.linspace(-1, 2, d), np.log(0.25), output, **row["model"])
    images = pictures(3, *shape)
    # Batches of two and of one: the means are over the images.
    model.test_step(images[:2])
    loss, reconstruction, kl = (float(value) for value in model.test_step(images[2:]).values())

    x, terms = images.numpy() / 255, np.linspace(-1, 2, d) ** 2 + 0.25 - 1 - np.log(0.25)
    pixel = {"C": np.tanh(0.7) / 2 + 0.5, "D": -40 / 255}.get(network, 1 / (1 + np.exp(-0.7)))
    mse = np.square(x - pixel).mean()
    if network == "A":
        expected = -(x * np.log(pixel) + (1 - x) * np.log(1 - pixel)).sum((1, 2, 3)).mean()
        total = expected + terms.sum() / 2
    elif network == "D":  # of pixels in [0, 255]
        expected, total = mse, np.square(255 * x + 40).mean() + float(name[-1]) * terms.sum()
    else:
        weight = 5e-3 if network == "B" else 1e-5 if "weak" in name else 1e-2
        expected, total = mse, mse + weight * (terms / 2).mean()
    assert kl == pytest.approx(terms.sum() / 2, rel=1e-5)
    assert [reconstruction, loss] == pytest.approx([expected, total], rel=1e-5)
    assert [metric.name for metric in model.metrics][1] == ("reconstruction" if network == "A" else "mse")

    decoder, codes = model.networks()["decoder"], np.zeros([1, d], np.float32)
    assert decoder(codes).numpy() == pytest.approx(max(pixel, 0), rel=1e-5)
    if network == "D":  # it has no output activation, but its images are in [0, 1]
        [layer for layer in model.decoder.layers if "conv" in layer.name][-1].bias.assign([51.0, 254.0, 300.0])
        np.testing.assert_allclose(decoder(codes)[0, 0, 0], [0.2, 254 / 255, 1], rtol=1e-5)


def test_codes_are_drawn_from_q():
    """The decoder, here one that records its codes, gets mean + std * noise."""
    model, seen = build(), []
    model.encoder = lambda images, training: (
        tf.tile([tf.range(10.0)], [10_000, 1]),
        tf.fill([10_000, 10], np.float32(np.log(0.25))),
    )
    model.decoder = lambda codes, training: seen.append(codes.numpy()) or tf.zeros([10_000, 1, 1, 1])
    model.loss_terms(tf.zeros([10_000, 1, 1, 1], tf.uint8), [0, 1], False)
    np.testing.assert_allclose(seen[0].mean(0), np.arange(10), atol=0.03)
    np.testing.assert_allclose(np.cov(seen[0].T), 0.25 * np.eye(10), atol=0.02)


def test_the_noise_is_of_seed_and_step_and_of_every_evaluation_the_same():
    def seeds(seed):
        model, found = build(seed=seed), []
        original = model.loss_terms
        model.loss_terms = lambda images, seed, training: (
            found.append(tuple(map(int, seed))) or original(images, seed, training)
        )
        for step in (model.train_step, model.test_step) * 2:
            step(pictures(2, 32, 32, 1))
        return found

    found = seeds(3)
    assert found == seeds(3) and found[1] == found[3]
    assert len({*found, *seeds(4)}) == 6


def test_only_training_moves_batch_norms_averages():
    model = train.build((64, 64, 3), **train.RUNS["celeba_z512"]["model"] | {"latent_dim": 2})
    averages = [weights for weights in model.weights if "moving" in weights.path]
    for step, moved in ((model.test_step, False), (model.train_step, True)):
        before = [weights.numpy() for weights in averages]
        step(pictures(2, 64, 64, 3))
        assert [(a != b).any() for a, b in zip(before, averages, strict=True)] == [moved] * 16


def test_a_vae_learns(digits):
    """After 300 steps, its codes carry information, and its samples have ink where digits do."""
    model = build(latent_dim=100, learning_rate=2e-3)
    devices.tune(model, (32, 32, 1), 10, model.distribute_strategy)
    model.fit(datasets.batches(digits.train.images, 32, 0, 0, 300), verbose=0)
    dev = model.evaluate(digits.dev.images, batch_size=250, verbose=0, return_dict=True)
    assert dev["loss"] < 250 and dev["kl"] > 6  # without codes a VAE stays at 272
    ink = train.generate(model.networks()["decoder"], 200, 0).mean((0, 3))
    assert np.corrcoef(ink.ravel(), digits.test.images.mean((0, 3)).ravel())[0, 1] > 0.9


def test_a_wrong_reconstruction_term_is_refused():
    for wrong in ({"reconstruction": "bce"}, {"network": "D"}):
        with pytest.raises(ValueError, match="reconstruction term of network"):
            build(**wrong)


def test_half_precision_takes_the_same_step(monkeypatch):
    """Keras would divide the gradients by the scale of a loss that nobody multiplied by it."""
    monkeypatch.setattr(keras.optimizers, "Adam", lambda *_, **__: keras.optimizers.SGD(1e-4))
    moved = []
    for policy in ("float32", "mixed_float16"):
        keras.config.set_dtype_policy(policy)
        try:
            model = build()
        finally:
            keras.config.set_dtype_policy("float32")
        before = model.decoder.get_weights()
        model.train_step(pictures(8, 32, 32, 1))
        moved.append(np.concatenate([(a - b).ravel() for a, b in zip(model.decoder.get_weights(), before)]))
    assert np.linalg.norm(moved[1] - moved[0]) < 0.05 * np.linalg.norm(moved[0])


def test_units_alive_are_those_that_some_input_reaches():
    """Of ten units, three are dead, and one is alive for only one code."""
    decoder = build().decoder
    hidden = decoder.get_layer("hidden")
    hidden.kernel.assign(np.eye(10))
    hidden.bias.assign([-100.0] * 3 + [-1.5] + [1.0] * 6)
    codes = np.zeros([500, 10], np.float32)
    assert vae.test.units_alive(decoder, hidden, codes) == 6
    codes[123, 3] = 2
    assert vae.test.units_alive(decoder, hidden, codes) == 7


def test_active_units_have_a_variance_above_a_hundredth():
    deviations = np.sqrt(np.float32([0, 0.0099, 0.0101, 1]))
    assert vae.test.active_units(5 + deviations * np.float32([[-1], [1]])) == 2


def test_a_probe_finds_what_is_linear_and_no_more():
    """One label depends on a direction of the codes, one is random, and one is separable only by a curve."""
    rng = np.random.default_rng(0)
    codes, others = rng.normal(size=[2000, 8]), rng.normal(size=[2000, 8])

    def accuracy(label):
        return vae.test.probe(codes, label(codes).astype(int), others, label(others).astype(int))

    linear, chance = accuracy(lambda z: z[:, 0] - z[:, 3] > 0.5)
    assert linear > 0.97 and chance == pytest.approx(0.64, abs=0.03)
    for label in (lambda z: rng.uniform(size=len(z)) > 0.3, lambda z: np.abs(z[:, 0]) > 0.39):
        found, chance = accuracy(label)
        assert found == pytest.approx(chance, abs=0.02) and chance == pytest.approx(0.7, abs=0.03)
    _, chance = vae.test.probe(codes, np.arange(2000) // 1100, others, (np.arange(2000) >= 500).astype(int))
    assert chance == 0.25  # the test labels' share of the label that is most frequent among the others


def test_sampled_codes_have_the_encoders_means_and_variances():
    means = np.tile(np.float32([2, -1, 0]), [10_000, 1])
    codes = vae.test.sample_codes(means, np.full_like(means, np.log(0.25)), 0).numpy()
    np.testing.assert_allclose(codes.mean(0), [2, -1, 0], atol=0.02)
    np.testing.assert_allclose(codes.std(0), 0.5, atol=0.02)
