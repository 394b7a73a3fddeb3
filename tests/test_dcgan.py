from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from common import classifier, datasets, devices, metrics
from dcgan import test as measuring
from dcgan import train

ROW = train.RUNS["mnist"]["model"] | {"learning_rate": 2e-3}


def build(**changes):
    return train.build((32, 32, 1), **ROW | {"latent_dim": 6, "width": 4, "seed": 3} | changes)


def pictures(count=8):
    return np.random.default_rng(0).integers(0, 256, [count, 32, 32, 1], np.uint8)


@pytest.mark.parametrize("noise", ["normal", "uniform"])
@pytest.mark.parametrize("g_updates", [1, 2])
def test_a_step_is_algorithm_1(g_updates, noise):
    """D's update, then G's with the updated D, match plain steps with a forward pass each.

    A single update of G uses the noise of D's update; each of two has its own.
    """
    model, twin = build(g_updates=g_updates, noise=noise), build()
    # Plain gradient descent reveals the size of a gradient, which Adam's first step hides.
    model.g_optimizer, model.d_optimizer = (keras.optimizers.SGD(0.1) for _ in range(2))
    model.g_optimizer.build(model.generator.trainable_variables)
    model.d_optimizer.build(model.discriminator.trainable_variables)
    for_d, *for_g = tf.unstack(tf.random.experimental.stateless_split(model.step_seed(), 1 + g_updates))
    logs = model.train_step(tf.constant(pictures()))

    def fakes(seed):
        draw = tf.random.stateless_normal if noise == "normal" else tf.random.stateless_uniform
        return twin.generator(draw([8, 6], seed) if noise == "normal" else 2 * draw([8, 6], seed) - 1, training=True)

    d = twin.discriminator
    with tf.GradientTape() as tape:
        p_real, p_fake = (tf.sigmoid(d(x, training=True)) for x in (pictures() / np.float32(127.5) - 1, fakes(for_d)))
        d_losses = -tf.reduce_mean(tf.math.log(p_real)), -tf.reduce_mean(tf.math.log(1 - p_fake))
        d_loss = sum(d_losses)
    for weights, gradient in zip(d.trainable_variables, tape.gradient(d_loss, d.trainable_variables)):
        weights.assign_sub(0.1 * gradient)
    after = []
    for seed in for_g if g_updates > 1 else [for_d]:
        with tf.GradientTape() as tape:
            after.append(tf.sigmoid(d(fakes(seed), training=True)))
            g_loss = -tf.reduce_mean(tf.math.log(after[-1]))
        variables = twin.generator.trainable_variables
        for weights, gradient in zip(variables, tape.gradient(g_loss, variables)):
            weights.assign_sub(0.1 * gradient)

    expected = dict(d_loss=d_loss, g_loss=g_loss, d_loss_real=d_losses[0], d_loss_fake=d_losses[1])
    expected |= dict(d_real=p_real, d_fake_before=p_fake, d_fake_after=after[0])
    expected = {name: np.mean(value) for name, value in expected.items()}
    assert {name: float(value) for name, value in logs.items()} == pytest.approx(expected, rel=1e-4)
    for a, b in zip(model.trainable_variables, twin.trainable_variables, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5, err_msg=a.path)
    for a, b in zip(d.non_trainable_variables, model.discriminator.non_trainable_variables, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5, err_msg=a.path)


def test_each_step_draws_new_noise_of_seed_and_step():
    model = build()
    first = model.step_seed().numpy()
    np.testing.assert_array_equal(first, build().step_seed())
    assert (first != build(seed=4).step_seed().numpy()).any()
    model.train_step(tf.constant(pictures()))
    assert (first != model.step_seed().numpy()).any()


def test_last_outputs_by_hand():
    columns = ("d_real", "d_fake_before", "d_fake_after")
    log = [{"step": str(10 * i), **{name: str(i + j) for j, name in enumerate(columns)}} for i in range(1, 21)]
    assert measuring.last_outputs(log) == {f"last tenth: {name}": 19.5 + j for j, name in enumerate(columns)}


def test_a_fresh_discriminator_tells_noise_from_digits_and_not_digits_from_digits(digits):
    images = digits.train.images

    def area(generated):
        pairs = (images[:1500], generated[:1500]), (images[1500:1750], generated[1500:1750])
        return measuring.told_apart(build().discriminator, *pairs, 1e-3)

    assert area(pictures(1750)) > 0.99
    assert area(images[1750:]) == pytest.approx(0.5, abs=0.1)


def test_a_fresh_discriminator_is_tested_on_images_it_has_not_seen(monkeypatch):
    """It is trained on real images from the whole set, here 0 to 19,999, and on as many generated ones."""
    seen = []
    for name in ("latent_space", "last_outputs"):
        monkeypatch.setattr(measuring, name, lambda *_: {})
    monkeypatch.setattr(measuring, "read_log", lambda folder: [])
    monkeypatch.setattr(measuring, "build", lambda shape, **_: SimpleNamespace(discriminator=None))
    monkeypatch.setattr(measuring, "generate", lambda generator, count, seed: np.arange(count))
    monkeypatch.setattr(measuring, "told_apart", lambda fresh, *pairs: seen.extend(pairs))
    training, test = (SimpleNamespace(images=np.arange(count)) for count in (20_000, 50))
    images = SimpleNamespace(train=training, test=test)
    measuring.report(SimpleNamespace(row=train.RUNS["mnist"], seed=0, folder=None), {"generator": None}, images)
    (reals, fakes), (other_reals, other_fakes), rate = seen
    assert len({*reals}) == len({*fakes}) == 9_600 and reals.max() > 19_000 and rate == 2e-4
    assert len({*other_fakes} - {*fakes}) == len(other_fakes) == 50 and other_reals is test.images


def test_a_dcgan_learns(digits):
    """400 steps bring the FID below half of the untrained generator's."""
    model, images = train.build((32, 32, 1), **ROW), digits.test.images
    devices.tune(model, (32, 32, 1), 10, model.distribute_strategy)

    def distance():
        features = (classifier.features(x, "mnist") for x in (images, train.generate(model.generator, 1000, 0)))
        return metrics.frechet_distance(*features)

    before = distance()
    model.fit(datasets.batches(digits.train.images, 64, 0, 0, 400), verbose=0)
    assert distance() < before / 2
