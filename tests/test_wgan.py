import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from scipy import stats

import wgan.test
from common import datasets, devices
from wgan import train

DIV, GP = dict(target=0.0, weight=2.0, power=6), dict(target=1.0, weight=10.0, power=2)
BOTH = pytest.mark.parametrize("penalty", [DIV, GP], ids=["div", "gp"])
ROW = train.RUNS["mnist"]["model"]


def build(**changes):
    return train.build((32, 32, 1), **ROW | {"latent_dim": 6, "width": 4, "seed": 3} | changes)


def pictures(count):
    return tf.constant(np.random.default_rng(0).integers(0, 256, [count, 32, 32, 1], np.uint8))


def record(model):
    """Returns a list that collects what `model` samples from now on."""
    drawn, sample = [], model.sample
    model.sample = lambda count, seed: drawn.append(sample(count, seed)) or drawn[-1]
    return drawn


@pytest.mark.parametrize("network, side", [("ours", 32), ("C", 64), ("D", 32)])
def test_a_score_depends_on_its_own_image_alone(network, side):
    """A critic with batch norm would fail this."""
    keras.utils.set_random_seed(0)
    _, critic = train.build_networks((side, side, 3), network, 6, 4, "normal")
    images = np.random.default_rng(0).uniform(-1, 1, [4, side, side, 3]).astype(np.float32)
    alone, together = (np.concatenate([critic(part, training=True) for part in np.split(images, n)]) for n in (4, 1))
    np.testing.assert_allclose(alone, together, rtol=1e-3)
    assert np.ptp(alone) > 0.1 * np.abs(alone).max()


@BOTH
@pytest.mark.parametrize("slope", [0.0, 0.5, 1.0, 2.0])
def test_the_losses_of_a_linear_critic(slope, penalty):
    """Its gradient is its weights w everywhere: the penalties are k |w|^p and 10 (|w| - 1)^2, with known gradients.

    Two mistakes would be noticed: using the gradient of the batch's mean score, or its norm over only an image's rows.
    """
    rng = np.random.default_rng(0)
    weights = rng.normal(size=[8, 8])
    weights *= slope / np.linalg.norm(weights)
    model = build(**penalty)
    model.critic = keras.Sequential([keras.Input([8, 8, 1]), layers.Flatten(), layers.Dense(1, use_bias=False)])
    model.critic.set_weights([weights.reshape(64, 1)])
    reals, fakes = rng.normal(size=[2, 7, 8, 8, 1]).astype(np.float32)
    difference = (reals.mean(0) - fakes.mean(0))[..., 0]
    with tf.GradientTape() as tape:
        losses = model.critic_losses(reals, fakes, tf.constant(rng.uniform(size=[7, 1, 1, 1]), tf.float32))
    gradient = tape.gradient(losses[0], model.critic.trainable_variables)[0].numpy().reshape(8, 8)
    estimate = np.sum(weights * difference)
    right, of_mean, of_rows = (
        2 * np.mean(norm**6) if penalty is DIV else 10 * np.mean((norm - 1) ** 2)
        for norm in (slope, slope / 7, np.linalg.norm(weights, axis=0))
    )
    np.testing.assert_allclose(losses, [right - estimate, estimate, right], rtol=1e-4, atol=1e-5)
    assert slope == 0 or not np.isclose([of_mean, of_rows], right, rtol=0.1).any()
    by_norm = 12 * slope**5 if penalty is DIV else 20 * (slope - 1)
    np.testing.assert_allclose(gradient, by_norm * weights / (slope or 1) - difference, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("noise", ["normal", "uniform"])
def test_noise_and_points_are_new_for_each_update(noise):
    model, other = build(noise=noise), build(noise=noise, seed=4)
    z, u = (tensor.numpy() for tensor in model.sample(5_000, tf.constant([1, 2])))
    assert z.mean() == pytest.approx(0, abs=0.03) and (np.abs(z).max() <= 1) == (noise == "uniform")
    assert z.std() == pytest.approx(1 if noise == "normal" else 3**-0.5, abs=0.03)
    assert u.shape == (5_000, 1, 1, 1) and stats.kstest(u.ravel(), "uniform").pvalue > 0.01
    drawn = record(model), record(other)
    for step in (model.train_step, other.train_step, model.train_step):
        step(pictures(10))
    values = np.concatenate([[*np.ravel(z), *np.ravel(u)] for z, u in drawn[0] + drawn[1]])
    assert len(values) == len(np.unique(values)) == 18 * 2 * 7


@pytest.mark.parametrize("updates", [1, 5])
@BOTH
def test_a_step_is_algorithm_1(penalty, updates):
    """It matches plain steps: `updates` of the critic, each on images of its own, then one of G."""
    model, twin = (build(batches_per_step=updates, beta_1=0.3, beta_2=0.8, **penalty) for _ in range(2))
    for adam in (model.c_optimizer, model.g_optimizer):
        np.testing.assert_allclose([adam.learning_rate, adam.beta_1, adam.beta_2], [2e-4, 0.3, 0.8], rtol=1e-6)
    # Plain gradient descent reveals the size of a gradient, which Adam's first step hides.
    model.c_optimizer, model.g_optimizer = keras.optimizers.SGD(0.01), keras.optimizers.SGD(0.1)
    model.c_optimizer.build(model.critic.trainable_variables)
    model.g_optimizer.build(model.generator.trainable_variables)
    drawn, images = record(model), pictures(updates * 4)
    logs = model.train_step(images)

    def descend(loss, tape, variables, rate):
        for weights, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
            weights.assign_sub(rate * gradient)

    generator, critic = twin.generator, twin.critic
    for batch, (noise, u) in zip(np.split(images.numpy(), updates), drawn):
        x, g = batch / np.float32(127.5) - 1, generator(noise, training=True)
        with tf.GradientTape() as tape:
            points = tf.Variable(u * x + (1 - u) * g)
            with tf.GradientTape() as inner:
                total = tf.reduce_sum(critic(points))
            norm = tf.norm(tf.reshape(inner.gradient(total, points), [4, -1]), axis=1)
            cost = 2 * norm**6 if penalty is DIV else 10 * (norm - 1) ** 2
            loss = tf.reduce_mean(critic(g)) - tf.reduce_mean(critic(x)) + tf.reduce_mean(cost)
        descend(loss, tape, critic.trainable_variables, 0.01)
    with tf.GradientTape() as tape:
        g_loss = -tf.reduce_mean(critic(generator(drawn[-1][0], training=True)))
    descend(g_loss, tape, generator.trainable_variables, 0.1)
    found = logs["critic_loss"], logs["penalty"] - logs["estimate"], logs["g_loss"]
    np.testing.assert_allclose(found, [loss, loss, g_loss], rtol=1e-4)  # f's are from its last update
    for a, b in zip(model.trainable_variables, twin.trainable_variables):
        np.testing.assert_allclose(a, b, atol=1e-5, err_msg=a.path)


def test_the_dev_losses():
    """They are for the given images and constant noise, weighted by the number of images; nothing is trained."""
    model = build()
    before, drawn, batches = model.get_weights(), record(model), (pictures(6), 255 - pictures(2))
    for _ in range(2):
        model.reset_metrics()
        for images in batches:
            logs = model.test_step(images)
    np.testing.assert_array_equal(*(np.concatenate([noise for noise, _ in part]) for part in (drawn[:2], drawn[2:])))
    assert not np.isin(drawn[1][0], drawn[0][0]).any()  # each batch has its own
    expected = []
    for images, (noise, u) in zip(batches, drawn):
        x, g = images.numpy() / np.float32(127.5) - 1, model.generator(noise, training=False)
        expected += [[*model.critic_losses(x, g, u), -tf.reduce_mean(model.critic(g))]]
    np.testing.assert_allclose([logs[m.name] for m in model.metrics], np.average(expected, 0, [6, 2]), rtol=1e-4)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@BOTH
def test_a_wgan_finds_both_modes(penalty):
    """The images are light at the left or, three in ten, at the right."""
    rng = np.random.default_rng(0)
    modes = np.zeros([2, 32, 32, 1])
    modes[0, :, :16], modes[1, :, 16:] = 200, 200
    images = modes[(rng.uniform(size=1_000) < 0.3).astype(int)] + rng.uniform(0, 40, [1_000, 1, 1, 1])
    model = build(**penalty, learning_rate=2e-3, batches_per_step=3)

    def distances():
        """Returns the distances of 500 samples from both modes, in grey levels."""
        samples = train.generate(model.generator, 500, 0).astype(float)
        return np.sqrt(((samples[None] - 20 - modes[:, None]) ** 2).mean((2, 3, 4)))

    assert distances().min() > 40
    devices.tune(model, (32, 32, 1), 10, model.distribute_strategy)
    model.fit(datasets.batches(images.astype(np.uint8), 48, 0, 0, 150), verbose=0)
    after = distances()
    assert (after.min(0) < 40).mean() > 0.6
    assert 0.15 < (after.argmin(0) == 1).mean() < 0.5


def test_critic_numbers_of_a_known_critic():
    """f is an image's only value; training images are lighter than others, as if the critic had memorised them."""
    levels = {"training": (255, 255), "dev": (255, 153), "test": (153, 153), "generated": (0, 0)}  # f: 1, 0.6, 0.2, -1
    sets = {name: np.repeat(np.uint8(pair), 4)[:, None, None, None] for name, pair in levels.items()}
    critic = keras.Sequential([keras.Input([1, 1, 1]), layers.Flatten()])
    numbers = wgan.test.critic_numbers(critic, sets)
    means = [numbers[f"critic on {name} images"] for name in levels]
    assert means == pytest.approx([1, 0.6, 0.2, -1], abs=1e-6)
    assert numbers["critic's estimate that is memorised (share)"] == pytest.approx(0.4 / 2)
    dead = wgan.test.critic_numbers(keras.Sequential([critic, layers.Rescaling(0.0)]), sets)
    assert np.isnan(dead["critic's estimate that is memorised (share)"])  # null in metrics.json
    # From the dev images' mean alone: eight images with a variance of 0.4^2.
    assert numbers["its standard error"] == pytest.approx(0.4 / 8**0.5 / 2)


def test_the_residual_critic_halves_its_images_in_its_first_two_blocks():
    """Each of its four blocks has two 3x3 convolutions; the first also has a 1x1 convolution of the halved image."""
    critic = train.build((32, 32, 3), **train.RUNS["cifar10_div"]["model"] | {"width": 4}).critic
    heights = [layer.output.shape[1] for layer in critic.layers if isinstance(layer, layers.Conv2D)]
    assert sorted(heights) == [8] * 4 + [16] * 3 + [32] * 2
