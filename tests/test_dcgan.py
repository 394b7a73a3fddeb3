import keras
import numpy as np
import pytest
import tensorflow as tf

from common import data, fid, run
from dcgan import test as measuring
from dcgan import train

ROW = {key: value for key, value in train.RUNS["mnist"].items() if key not in run.OURS} | {"learning_rate": 2e-3}


def build(**changes):
    return train.build((32, 32, 1), **ROW | {"latent_dim": 6, "width": 4, "seed": 3} | changes)


def images(count=8):
    return tf.constant(np.random.default_rng(0).integers(0, 256, [count, 32, 32, 1], np.uint8))


def test_bce_by_hand():
    logits = tf.constant([[0.0], [2.0]])
    one, zero = float(train.bce(1.0, logits)), float(train.bce(0.0, logits))
    assert one == pytest.approx((np.log(2) + np.log1p(np.exp(-2))) / 2, rel=1e-6)
    assert zero == pytest.approx((np.log(2) + np.log1p(np.exp(2))) / 2, rel=1e-6)


@pytest.mark.parametrize("g_updates", [1, 2])
def test_a_step_is_algorithm_1(g_updates):
    """Against plain steps, each with a forward pass of its own: D's update first, G's from the updated D."""
    model, twin = build(g_updates=g_updates), build()
    # Plain gradient descent shows a gradient's size, which Adam's first step hides.
    model.g_optimizer, model.d_optimizer = (keras.optimizers.SGD(0.1) for _ in range(2))
    model.g_optimizer.build(model.generator.trainable_variables)
    model.d_optimizer.build(model.discriminator.trainable_variables)
    seed = model.draw()
    noise = tf.random.stateless_normal([8, 6], seed)
    logs = model.train_step(images())

    generator, discriminator = twin.generator, twin.discriminator
    reals = images().numpy() / np.float32(127.5) - 1
    with tf.GradientTape() as tape:
        fakes = generator(noise, training=True)
        p_real, p_fake = (tf.sigmoid(discriminator(x, training=True)) for x in (reals, fakes))
        d_losses = -tf.reduce_mean(tf.math.log(p_real)), -tf.reduce_mean(tf.math.log(1 - p_fake))
        d_loss = sum(d_losses)
    d_gradients = tape.gradient(d_loss, discriminator.trainable_variables)
    for weights, gradient in zip(discriminator.trainable_variables, d_gradients):
        weights.assign_sub(0.1 * gradient)
    afters = []
    for update in range(g_updates):
        if update:  # of other noise
            noise = tf.random.stateless_normal([8, 6], tf.random.experimental.stateless_fold_in(seed, update))
        with tf.GradientTape() as tape:
            p_after = tf.sigmoid(discriminator(generator(noise, training=True), training=True))
            g_loss = -tf.reduce_mean(tf.math.log(p_after))
        afters.append(p_after)
        g_gradients = tape.gradient(g_loss, generator.trainable_variables)
        for weights, gradient in zip(generator.trainable_variables, g_gradients):
            weights.assign_sub(0.1 * gradient)

    expected = {"d_loss": d_loss, "g_loss": g_loss, "d_real": tf.reduce_mean(p_real)}
    expected |= {"d_fake_before": tf.reduce_mean(p_fake), "d_fake_after": tf.reduce_mean(afters[0])}
    expected |= {"d_loss_real": d_losses[0], "d_loss_fake": d_losses[1]}
    assert {name: float(value) for name, value in logs.items()} == pytest.approx(
        {name: float(value) for name, value in expected.items()}, rel=1e-4
    )
    for a, b in zip(model.discriminator.trainable_variables, discriminator.trainable_variables):
        np.testing.assert_allclose(a, b, atol=1e-5, err_msg=a.path)
    for a, b in zip(model.generator.weights, generator.weights):
        if "moving" not in a.path:  # the twin's generator ran twice, and so moved its statistics twice
            np.testing.assert_allclose(a, b, atol=1e-5, err_msg=a.path)


def test_the_optimisers_are_the_rows():
    model = build(learning_rate=2e-4)
    for optimizer in (model.d_optimizer, model.g_optimizer):
        assert isinstance(optimizer, keras.optimizers.Adam) and float(optimizer.beta_1) == 0.5
        assert float(optimizer.learning_rate) == pytest.approx(2e-4)


def test_each_step_draws_new_noise_of_seed_and_step():
    model = build()
    first = model.draw().numpy()
    np.testing.assert_array_equal(first, build().draw())
    assert (first != build(seed=4).draw().numpy()).any()
    model.train_step(images())
    assert (first != model.draw().numpy()).any()


@pytest.mark.parametrize("bias", [False, True])
def test_bias_of_the_transposed_convolutions(bias):
    generator = build(bias=bias).generator
    transposed = [layer for layer in generator.layers if isinstance(layer, keras.layers.Conv2DTranspose)]
    assert len(transposed) == 4 and all(layer.use_bias == bias for layer in transposed)
    assert generator.output_shape == (None, 32, 32, 1)


def test_width_16_is_the_reports():
    model = build(width=16)
    shapes = [layer.output.shape[1:] for layer in model.generator.layers if "conv" in layer.name]
    assert shapes == [(4, 4, 64), (8, 8, 32), (16, 16, 16), (32, 32, 1)]
    shapes = [layer.output.shape[1:] for layer in model.discriminator.layers if "conv" in layer.name]
    assert shapes == [(16, 16, 16), (8, 8, 32), (4, 4, 64), (1, 1, 1)]


@pytest.mark.parametrize(
    ("name", "generator", "discriminator"),
    [
        ("celeba_z100", [(4, 256), (8, 128), (16, 64), (32, 32), (64, 3)], [(32, 32), (16, 64), (8, 128), (4, 256)]),
        ("celeba_z128", [(4, 512), (8, 256), (16, 128), (32, 64), (64, 3)], [(32, 64), (16, 128), (8, 256), (2, 512)]),
    ],
)
def test_the_networks_of_the_faces_are_the_reports(name, generator, discriminator):
    model = train.build((64, 64, 3), **{k: v for k, v in train.RUNS[name].items() if k not in run.OURS})
    shapes = [layer.output.shape[2:] for layer in model.generator.layers if "conv" in layer.name]
    assert shapes == generator
    shapes = [layer.output.shape[2:] for layer in model.discriminator.layers if "conv" in layer.name]
    assert shapes == [*discriminator, (1, 1)]
    norms = [isinstance(layer, keras.layers.BatchNormalization) for layer in model.discriminator.layers]
    assert sum(norms) == {"celeba_z100": 3, "celeba_z128": 4}[name]


def test_the_outer_convolutions_are_dense_layers():
    """G's first, of a 1x1 map, and D's last, to one: C's dense layers."""
    model = build()
    first = next(layer for layer in model.generator.layers if "conv" in layer.name)
    noise = np.random.default_rng(0).normal(size=[5, 6]).astype(np.float32)
    dense = np.einsum("nl,hwcl->nhwc", noise, first.kernel.numpy())
    np.testing.assert_allclose(first(noise[:, None, None]), dense, atol=1e-6)
    last = [layer for layer in model.discriminator.layers if "conv" in layer.name][-1]
    features = np.random.default_rng(1).normal(size=[5, 4, 4, 16]).astype(np.float32)
    logits = features.reshape(5, -1) @ last.kernel.numpy().reshape(-1, 1)
    np.testing.assert_allclose(np.ravel(last(features)), logits.ravel(), atol=1e-5)


def test_generate_is_in_inference_mode():
    """An image does not depend on its neighbours in the batch."""
    generator = build().generator
    noise = np.random.default_rng(0).normal(size=[5, 6]).astype(np.float32)
    np.testing.assert_array_equal(train.to_uint8(generator, noise)[:2], train.to_uint8(generator, noise[:2]))
    drawn = train.generate(generator, 5, 0)
    assert drawn.shape == (5, 32, 32, 1) and drawn.dtype == np.uint8
    np.testing.assert_array_equal(drawn, train.generate(generator, 5, 0))
    assert (drawn != train.generate(generator, 5, 1)).any()


def test_last_outputs_by_hand():
    columns = ("d_real", "d_fake_before", "d_fake_after")
    log = [{"step": str(10 * i), **{name: str(i + j) for j, name in enumerate(columns)}} for i in range(1, 21)]
    assert measuring.last_outputs(log) == {f"last tenth: {name}": 19.5 + j for j, name in enumerate(columns)}


def test_a_fresh_discriminator_tells_noise_from_digits_and_not_digits_from_digits(digits):
    images, noise = digits.train.images, np.random.default_rng(0).integers(0, 256, [3000, 32, 32, 1], np.uint8)

    def share(generated):
        pairs = (images[:1000], generated[:1000]), (images[1000:1700], generated[1000:1700])
        return measuring.told_apart(build(width=8).discriminator, *pairs, 1e-3)

    assert share(noise) > 0.95
    assert share(images[1700:]) == pytest.approx(0.5, abs=0.06)


def test_a_dcgan_learns(digits):
    """600 steps take the FID to less than half of the untrained generator's."""
    model = train.build((32, 32, 1), **ROW)
    real = fid.classifier_features(digits.test.images, "mnist")

    def distance():
        return fid.frechet_distance(real, fid.classifier_features(train.generate(model.generator, 1000, 0), "mnist"))

    before = distance()
    model.fit(data.batches(digits.train.images, 64, 0, 0, 600), verbose=0)
    assert distance() < before / 2
