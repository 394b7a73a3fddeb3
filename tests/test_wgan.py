import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import wgan.test
from common import data, run
from wgan import train

DIV, GP = dict(target=0.0, weight=2.0, power=6), dict(target=1.0, weight=10.0, power=2)
ROW = {key: value for key, value in train.RUNS["mnist"].items() if key not in run.OURS}


def build(shape=(8, 8, 1), **changes):
    return train.build(shape, **ROW | {"latent_dim": 6, "width": 4, "seed": 3} | changes)


def pictures(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def linear(weights, **penalty):
    """A WGAN whose critic is f(x) = weights . x."""
    weights = np.asarray(weights, np.float32)
    model = build(**penalty)
    critic = keras.Sequential([keras.Input([8, 8, 1]), layers.Flatten(), layers.Dense(1, use_bias=False)])
    critic.set_weights([weights.reshape(64, 1)])
    model.critic, model.c_optimizer = critic, keras.optimizers.SGD(0.01)
    model.c_optimizer.build(critic.trainable_variables)
    return model


def test_the_gradients_norm_against_finite_differences():
    keras.utils.set_random_seed(0)
    inputs = keras.Input([5, 4, 2], dtype="float64")
    x = layers.Conv2D(6, 3, activation="tanh", dtype="float64")(inputs)
    critic = keras.Model(inputs, layers.Dense(1, dtype="float64")(layers.Flatten(dtype="float64")(x)))
    images = np.random.default_rng(0).normal(size=[3, 5, 4, 2])
    gradient, size = np.empty_like(images), 1e-5
    for place in np.ndindex(5, 4, 2):
        up, down = images.copy(), images.copy()
        up[(slice(None), *place)] += size
        down[(slice(None), *place)] -= size
        gradient[(slice(None), *place)] = (critic(up) - critic(down)).numpy()[:, 0] / (2 * size)
    norm = train.gradient_norm(critic, tf.constant(images))
    np.testing.assert_allclose(norm, np.sqrt((gradient**2).sum((1, 2, 3))), rtol=1e-6)
    assert len({*norm.numpy().round(6)}) == 3  # each image's own


@pytest.mark.parametrize("slope", [0.0, 0.5, 1.0, 1.5])
def test_the_losses_of_a_linear_critic(slope):
    """Its gradient is its weights everywhere: k |w|^p, and 10 (|w| - 1)^2."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=64)
    weights *= slope / np.linalg.norm(weights)
    reals, fakes = rng.normal(size=[2, 7, 8, 8, 1]).astype(np.float32)
    u = tf.constant(rng.uniform(size=[7, 1, 1, 1]), tf.float32)
    estimate = weights @ (reals.mean(0) - fakes.mean(0)).ravel()
    for penalty, expected in ((DIV, 2 * slope**6), (GP, 10 * (slope - 1) ** 2)):
        losses = linear(weights, **penalty).critic_losses(reals, fakes, u)
        np.testing.assert_allclose(losses, [expected - estimate, estimate, expected], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("penalty", [DIV, GP], ids=["div", "gp"])
def test_the_penaltys_gradient_is_that_of_the_weights(penalty):
    """d/dw k |w|^p = k p |w|^(p - 2) w, and d/dw 10 (|w| - 1)^2 = 20 (|w| - 1) w / |w|; of w = 0 it is a number."""
    weights = np.random.default_rng(0).normal(size=64) * 0.1
    norm = np.linalg.norm(weights)
    expected = 12 * norm**4 * weights if penalty is DIV else 20 * (norm - 1) * weights / norm
    images = tf.zeros([3, 8, 8, 1])
    for w, gradient in ((weights, expected), (0 * weights, 0 * weights)):
        model = linear(w, **penalty)
        with tf.GradientTape() as tape:
            loss = model.critic_losses(images, images, tf.zeros([3, 1, 1, 1]))[0]
        found = tape.gradient(loss, model.critic.trainable_variables)[0]
        np.testing.assert_allclose(found.numpy().ravel(), gradient, rtol=1e-3, atol=1e-5)


def test_the_penalty_is_taken_between_real_and_generated():
    """f(x) = |x|^2 / 2, whose gradient is x itself: the norm shows the point."""
    model = build(target=0.0, weight=1.0, power=1)
    model.critic = lambda x, training: tf.reduce_sum(x**2, [1, 2, 3])[:, None] / 2
    reals, fakes = tf.fill([4, 8, 8, 1], 1.0), tf.fill([4, 8, 8, 1], -0.5)
    u = np.array([0.0, 1.0, 0.5, 0.9], np.float32)
    expected = np.abs(u * 1.0 + (1 - u) * -0.5) * 8
    _, estimate, penalty = model.critic_losses(reals, fakes, u[:, None, None, None])
    assert float(penalty) == pytest.approx(expected.mean(), rel=1e-5)
    assert float(estimate) == pytest.approx(64 * (1 - 0.25) / 2)


def test_noise_and_points_are_new_for_each_update():
    noise, u = build().draw(5_000, tf.constant([1, 2]))
    assert noise.numpy().mean() == pytest.approx(0, abs=0.03) and noise.numpy().std() == pytest.approx(1, abs=0.03)
    u = u.numpy().ravel()
    assert 0 <= u.min() < 0.01 and 0.99 < u.max() < 1 and u.mean() == pytest.approx(0.5, abs=0.02)
    seeds = []
    for seed in (3, 4):
        model = build(seed=seed)

        def draw(count, seed, draw=model.draw):
            seeds.append(tuple(seed.numpy()))
            return draw(count, seed)

        model.draw = draw
        for _ in range(2):
            model.train_step(tf.constant(pictures(20, 8, 8, 1)))
    assert len(seeds) == len({*seeds}) == 24


@pytest.mark.parametrize("updates", [1, 5])
@pytest.mark.parametrize("penalty", [DIV, GP], ids=["div", "gp"])
def test_a_step_is_algorithm_1(penalty, updates):
    """Against plain steps: `updates` of the critic, each on images of its own, then one of G."""
    model, twin = (build(batches_per_step=updates, **penalty) for _ in range(2))
    model.c_optimizer, model.g_optimizer = keras.optimizers.SGD(0.01), keras.optimizers.SGD(0.1)
    model.c_optimizer.build(model.critic.trainable_variables)
    model.g_optimizer.build(model.generator.trainable_variables)
    drawn, draw = [], model.draw
    model.draw = lambda count, seed: drawn.append(draw(count, seed)) or drawn[-1]
    images = pictures(updates * 4, 8, 8, 1)
    logs = model.train_step(tf.constant(images))
    assert int(model.c_optimizer.iterations) == updates and int(model.g_optimizer.iterations) == 1

    def descend(loss, tape, variables, rate):
        for weights, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
            weights.assign_sub(rate * gradient)

    generator, critic = twin.generator, twin.critic
    for batch, (noise, u) in zip(np.split(images, updates), drawn):
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
    assert float(logs["critic_loss"]) == pytest.approx(float(loss), rel=1e-4)  # of the last update
    assert float(logs["g_loss"]) == pytest.approx(float(g_loss), rel=1e-4)
    assert float(logs["critic_loss"]) == pytest.approx(float(logs["penalty"] - logs["estimate"]), rel=1e-5)
    for a, b in zip(model.trainable_variables, twin.trainable_variables):
        np.testing.assert_allclose(a, b, atol=1e-5, err_msg=a.path)


def test_the_dev_losses():
    """Those of the images given and of noise that stays the same, weighted by their number; nothing is trained."""
    model = build()
    before = [weights.copy() for weights in model.get_weights()]
    drawn, draw = [], model.draw
    model.draw = lambda count, seed: drawn.append(draw(count, seed)) or drawn[-1]
    batches = pictures(6, 8, 8, 1), 255 - pictures(2, 8, 8, 1)
    for _ in range(2):
        model.reset_metrics()
        for images in batches:
            logs = model.test_step(tf.constant(images))
    for a, b in zip(drawn[:2], drawn[2:]):
        np.testing.assert_array_equal(a[0], b[0])
    assert not np.isin(drawn[1][0], drawn[0][0]).any()  # each batch has its own
    expected = []
    for images, (noise, u) in zip(batches, drawn):
        x, g = images / np.float32(127.5) - 1, model.generator(noise, training=False)
        expected += [[*model.critic_losses(x, g, u), -tf.reduce_mean(model.critic(g))]]
    expected = np.average(expected, 0, [6, 2])
    np.testing.assert_allclose([logs[m.name] for m in model.metrics], expected, rtol=1e-4)
    for a, b in zip(before, model.get_weights()):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", train.RUNS)
def test_the_rows(name):
    """No critic has batch norm; the optimisers, the penalty and the sizes are the reports' and the papers'."""
    row = train.RUNS[name]
    side = {"mnist": (32, 32, 1), "cifar10": (32, 32, 3), "celeba": (64, 64, 3)}[row["dataset"]]
    model = train.build(side, **{key: value for key, value in row.items() if key not in run.OURS})
    assert not [layer for layer in model.critic.layers if isinstance(layer, layers.BatchNormalization)]
    assert row["batches_per_step"] == 5 and row["batch_size"] == 64
    assert {key: row[key] for key in DIV} == (GP if name.endswith("gp") else DIV)
    betas = (0.5, 0.999) if name == "celeba_gp" else (0.0, 0.9)
    for optimizer in (model.c_optimizer, model.g_optimizer):
        assert isinstance(optimizer, keras.optimizers.Adam)
        assert (float(optimizer.beta_1), float(optimizer.beta_2)) == betas
        assert float(optimizer.learning_rate) == pytest.approx(2e-4)
    generator, critic = (
        [layer.output.shape[1:] for layer in network.layers if isinstance(layer, kinds)]
        for network, kinds in (
            (model.generator, (layers.Reshape, layers.Conv2DTranspose, layers.Conv2D)),
            (model.critic, layers.Conv2D),
        )
    )
    expected = {
        "mnist": ([(4, 64), (8, 32), (16, 16), (32, 1)], [(16, 16), (8, 32), (4, 64)]),
        "cifar10": ([(4, 128), (8, 128), (16, 128), (32, 128), (32, 3)], [(16, 128), (8, 128), (8, 128), (8, 128)]),
        "celeba": ([(4, 256), (8, 128), (16, 64), (32, 32), (64, 3)], [(32, 32), (16, 64), (8, 128), (4, 256)]),
    }[row["dataset"]]
    assert tuple([shape[1:] for shape in shapes] for shapes in (generator, critic)) == expected


@pytest.mark.parametrize("penalty", [DIV, GP], ids=["div", "gp"])
def test_a_wgan_finds_both_modes(penalty):
    """Of images that are light at the left or, three in ten, at the right."""
    rng = np.random.default_rng(0)
    right = rng.uniform(size=2_000) < 0.3
    modes = np.zeros([2, 8, 8, 1])
    modes[0, :, :4], modes[1, :, 4:] = 200, 200
    images = modes[right.astype(int)] + rng.uniform(0, 40, [2_000, 8, 8, 1])
    model = build(width=16, **penalty, learning_rate=1e-3)

    def distances():
        """To both modes, in grey levels, of 500 samples."""
        samples = train.generate(model.generator, 500, 0).astype(float)
        return np.sqrt(((samples[None] - 20 - modes[:, None]) ** 2).mean((2, 3, 4)))

    assert distances().min() > 40
    model.fit(data.batches(images.astype(np.uint8), 320, 0, 0, 400), verbose=0)
    after = distances()
    assert (after.min(0) < 40).mean() > 0.6
    assert 0.15 < (after.argmin(0) == 1).mean() < 0.5


def test_critic_numbers_of_a_known_critic():
    """f is an image's mean; training images are lighter than others, as to a critic that knows them by heart."""

    def critic(images, training):
        return tf.reduce_mean(images, [1, 2, 3])[:, None]

    levels = {"training": 255, "dev": 204, "test": 153, "generated": 0}
    sets = {name: np.full([7, 4, 4, 1], level, np.uint8) for name, level in levels.items()}
    numbers = wgan.test.critic_numbers(critic, sets)
    assert numbers["critic on training images"] == pytest.approx(1) and numbers["critic on dev images"] < 0.61
    assert numbers["critic on generated images"] == pytest.approx(-1)
    assert numbers["critic's estimate that is memorised (share)"] == pytest.approx(0.2)
    assert numbers["its standard error"] == pytest.approx(0)
    # Of images of f = 1 and 0, half and half: a variance of 1/4 in each of two means of 8, over an estimate of 1.5.
    sets = {name: np.repeat(np.uint8([255, level]), 4)[:, None, None, None] for name, level in zip(levels, (128, 128))}
    sets |= {"test": sets["dev"], "generated": np.zeros([8, 1, 1, 1], np.uint8)}
    numbers = wgan.test.critic_numbers(critic, sets)
    assert numbers["its standard error"] == pytest.approx((2 * 0.25 / 8) ** 0.5 / 1.5, rel=0.01)


def test_generate_is_in_inference_mode():
    """An image does not depend on its neighbours in the batch."""
    generator = build().generator
    noise = np.random.default_rng(0).normal(size=[5, 6]).astype(np.float32)
    np.testing.assert_array_equal(train.to_uint8(generator, noise)[:2], train.to_uint8(generator, noise[:2]))
    drawn = train.generate(generator, 5, 0)
    assert drawn.shape == (5, 8, 8, 1) and drawn.dtype == np.uint8
    np.testing.assert_array_equal(drawn, train.generate(generator, 5, 0))
    assert (drawn != train.generate(generator, 5, 1)).any()
