import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage
from sklearn.metrics import mutual_info_score

import infogan.test
from common import data, run
from infogan import train

ROW = {key: value for key, value in train.RUNS["mnist"].items() if key not in run.OURS}


def build(shape=(32, 32, 1), **changes):
    return train.build(shape, **ROW | {"latent_dim": 6, "width": 4, "seed": 3} | changes)


def pictures(count=8):
    return tf.constant(np.random.default_rng(0).integers(0, 256, [count, 32, 32, 1], np.uint8))


def test_information_by_hand():
    """log 10 + log of the softmax's probability; log 2 + log of the normal density."""
    rng = np.random.default_rng(0)
    logits, mean, log_variance = rng.normal(size=[3, 2, 10]), rng.normal(size=[3, 1]), rng.normal(size=[3, 1])
    values, continuous = rng.integers(0, 10, [3, 2]), rng.uniform(-1, 1, [3, 1])
    q = [tf.constant(logits), tf.stack([mean, log_variance], 1)]
    bounds = train.information([tf.one_hot(values, 10, dtype=tf.float64), tf.constant(continuous)], q)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    chosen = np.take_along_axis(p, values[..., None], -1)[..., 0]
    np.testing.assert_allclose(bounds[0], np.log(10) + np.log(chosen).mean(0))
    variance = np.exp(log_variance)
    density = np.exp(-((continuous - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
    np.testing.assert_allclose(bounds[1], np.log(2) + np.log(density).mean(0))


def test_the_bound_is_the_information_where_q_is_the_posterior():
    """log 10 where the code can be read, 0 where it can't, and that of a noisy channel in closed form."""
    values = np.random.default_rng(0).integers(0, 10, [50_000, 1])
    codes = [tf.one_hot(values, 10)]
    for logits, expected in ((codes[0] * 50.0, np.log(10)), (codes[0] * 0.0, 0.0)):
        categorical, continuous = train.information(codes, [logits])
        assert float(categorical[0]) == pytest.approx(expected, abs=1e-5) and continuous.shape == [0]
    # A channel that gives another of the ten values, as likely as not, in a quarter of the cases.
    rng = np.random.default_rng(1)
    received = np.where(rng.random(values.shape) < 0.25, (values + rng.integers(1, 10, values.shape)) % 10, values)
    posterior = tf.one_hot(received, 10) * (0.75 - 0.25 / 9) + 0.25 / 9
    exact = np.log(10) + 0.75 * np.log(0.75) + 0.25 * np.log(0.25 / 9)
    assert float(train.information(codes, [tf.math.log(posterior)])[0][0]) == pytest.approx(exact, abs=0.02)
    # The least log variance is -2, and with it the most a continuous code can have log 2 - log(2 pi) / 2 + 1.
    sure = tf.fill([5, 2, 1], -5.0) * [[[0.0], [1.0]]]
    assert float(train.information([codes[0][:5], tf.zeros([5, 1])], [codes[0][:5], sure])[1][0]) == pytest.approx(
        0.77421, abs=1e-4
    )
    # No other Q does better, and a Gaussian that knows nothing of U(-1, 1) is below 0.
    assert float(train.information(codes, [2 * tf.math.log(posterior)])[0][0]) < exact - 0.05
    uniform = tf.random.stateless_uniform([50_000, 1], [0, 0], -1.0, 1.0)
    ignorant = tf.stack([tf.zeros_like(uniform), tf.fill(uniform.shape, -np.log(3.0).astype(np.float32))], 1)
    bound = train.information([*codes, uniform], [codes[0], ignorant])[1]
    assert float(bound[0]) == pytest.approx(np.log(2) - 0.5 * np.log(2 * np.pi * np.e / 3), abs=0.01)


def test_codes_are_drawn_evenly_and_apart_from_the_noise():
    generator = build(categorical=2).generator
    noise, categorical, continuous = train.draw_inputs(generator, 20_000, tf.constant([1, 2]))
    assert noise.numpy().min() >= -1 and noise.numpy().max() < 1
    np.testing.assert_allclose(noise.numpy().std(0), 3**-0.5, atol=0.01)
    np.testing.assert_allclose(categorical.numpy().mean(0), 0.1, atol=0.01)
    assert (categorical.numpy().sum(-1) == 1).all()
    values = categorical.numpy().argmax(-1)
    assert (values[:, 0] == values[:, 1]).mean() == pytest.approx(0.1, abs=0.01)
    assert continuous.numpy().min() >= -1 and continuous.numpy().max() < 1
    np.testing.assert_allclose(continuous.numpy().std(0), 3**-0.5, atol=0.01)
    everything = np.concatenate([noise, values, continuous], 1)
    assert np.abs(np.corrcoef(everything.T) - np.eye(10)).max() < 0.04
    assert len(train.draw_inputs(build(continuous=0).generator, 5, [0, 0])) == 2


@pytest.mark.parametrize("continuous", [0, 2])
def test_a_step_is_the_papers(continuous):
    """D's update, then G's and Q's from the updated D: against plain steps with a forward pass each."""
    model, twin = (build(categorical=2, continuous=continuous, continuous_weight=0.3) for _ in range(2))
    # Plain gradient descent shows a gradient's size, which Adam's first step hides.
    rates = {"d": 0.1, "g": 0.2, "q": 0.05}
    model.d_optimizer, model.g_optimizer, model.q_optimizer = map(keras.optimizers.SGD, rates.values())
    model.d_optimizer.build(model.d_variables())
    model.g_optimizer.build(model.generator.trainable_variables)
    model.q_optimizer.build(model.q_variables())
    noise, *codes = train.draw_inputs(model.generator, 8, model.draw())
    logs = model.train_step(pictures())

    d, g = twin.discriminator, twin.generator
    source, q_layers = d.get_layer("source"), [layer for layer in d.layers if layer.name.startswith("q_")]
    own = [id(w) for layer in q_layers for w in layer.trainable_variables]
    assert len(own) == (4 if continuous == 0 else 6)
    before = [w.numpy() for w in source.trainable_variables]

    def descend(loss, tape, variables, rate):
        for weights, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
            weights.assign_sub(rate * gradient)

    with tf.GradientTape() as tape:
        reals = d(pictures().numpy() / np.float32(127.5) - 1, training=True)[0]
        fakes = d(g([noise, *codes], training=True), training=True)[0]
        d_loss = -tf.reduce_mean(tf.math.log(tf.sigmoid(reals))) - tf.reduce_mean(tf.math.log(1 - tf.sigmoid(fakes)))
    descend(d_loss, tape, [w for w in d.trainable_variables if id(w) not in own], rates["d"])
    after_d = [w.numpy() for w in source.trainable_variables]
    with tf.GradientTape(persistent=True) as tape:
        logits, *q = d(g([noise, *codes], training=True), training=True)
        g_loss = -tf.reduce_mean(tf.math.log(tf.sigmoid(logits)))
        categorical = tf.reduce_sum(tf.math.log(tf.reduce_sum(tf.nn.softmax(q[0]) * codes[0], -1)), 1)
        likelihood = 0.0
        if continuous:
            variance = tf.exp(q[1][:, 1])
            density = tf.exp(-((codes[1] - q[1][:, 0]) ** 2) / (2 * variance)) / tf.sqrt(2 * np.pi * variance)
            likelihood = tf.reduce_mean(tf.reduce_sum(tf.math.log(density) + np.log(2), 1))
        q_loss = -tf.reduce_mean(categorical) - 2 * np.log(10) - 0.3 * likelihood
    trunk = [w for w in d.trainable_variables if id(w) not in {id(w) for w in source.trainable_variables}]
    g_gradients = tape.gradient(g_loss, g.trainable_variables)
    descend(q_loss, tape, trunk + g.trainable_variables, rates["q"])
    for weights, gradient in zip(g.trainable_variables, g_gradients, strict=True):
        weights.assign_sub(rates["g"] * gradient)

    assert float(logs["d_loss"]) == pytest.approx(float(d_loss), rel=1e-4)
    assert float(logs["g_loss"]) == pytest.approx(float(g_loss), rel=1e-4)
    assert float(logs["q_loss"]) == pytest.approx(float(q_loss), rel=1e-3, abs=1e-4)
    bound = float(logs["mi_categorical_1"] + logs["mi_categorical_2"])
    assert bound == pytest.approx(float(tf.reduce_mean(categorical)) + 2 * np.log(10), abs=1e-4)
    for a, b in zip(model.trainable_variables, twin.trainable_variables, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5, err_msg=a.path)
    # D's step moves the head for real and fake, Q's step moves it no further.
    for start, a, b in zip(before, after_d, model.discriminator.get_layer("source").trainable_variables):
        assert (start != a).any()
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_the_noise_is_new_each_step():
    model = build()
    first = model.draw()
    model.train_step(pictures())
    assert (first != model.draw()).numpy().any() and (build(seed=4).draw() != first).numpy().any()


def test_each_step_has_variables_of_its_own():
    """Q's step alone: the generator, the trunk and Q's layers change, the real/fake head does not."""
    for still, moved in (("d_optimizer", "q_optimizer"), ("q_optimizer", "d_optimizer")):
        model = build()
        for name in (still, "g_optimizer"):
            getattr(model, name).learning_rate = 0.0
        before = {w.path: w.numpy() for w in model.trainable_variables}
        model.train_step(pictures())
        changed = {w.path for w in model.trainable_variables if (before[w.path] != w.numpy()).any()}
        left = {path for path in before if path not in changed}
        if moved == "q_optimizer":
            assert {path.split("/")[-2] for path in left} == {"source"}
        else:
            assert {path.split("/")[-2].split("_")[0] for path in left if "q_" in path} == {"q"}
            assert not [path for path in changed if "q_" in path] and [path for path in changed if "source" in path]
            assert {w.path for w in model.generator.trainable_variables} <= left


def test_the_networks_of_the_faces_are_the_reports():
    for name, inputs, heads in (("celeba_cat5x10", 114, [(5, 10)]), ("celeba_cat10_cont2", 74, [(1, 10), (2, 2)])):
        row = train.RUNS[name]
        model = train.build((64, 64, 3), **{key: value for key, value in row.items() if key not in run.OURS})
        dense = next(layer for layer in model.generator.layers if isinstance(layer, keras.layers.Dense))
        assert dense.kernel.shape == (inputs, 4 * 4 * 256)
        assert [output.shape[1:] for output in model.discriminator.outputs] == [(1,), *heads]
        for optimizer in (model.d_optimizer, model.g_optimizer, model.q_optimizer):
            assert isinstance(optimizer, keras.optimizers.Adam) and float(optimizer.beta_1) == 0.5
            rate = 5e-5 if optimizer is model.q_optimizer else 2e-4
            assert float(optimizer.learning_rate) == pytest.approx(rate)


def four_places(count):
    """16x16 images of a blob at one of four places, and what reads which one."""
    rng = np.random.default_rng(0)
    places = np.array([[4, 4], [4, 11], [11, 4], [11, 11]])
    at = places[rng.integers(0, 4, count)] + rng.uniform(-1, 1, [count, 2])
    y, x = np.mgrid[:16, :16]
    distance = (y - at[:, 0, None, None]) ** 2 + (x - at[:, 1, None, None]) ** 2
    images = (220 * np.exp(-distance / 8) + rng.uniform(0, 20, [count, 16, 16])).astype(np.uint8)

    def read(pictures):
        quarters = [pictures[:, i : i + 8, j : j + 8].mean((1, 2, 3)) for i in (0, 8) for j in (0, 8)]
        return np.argmax(quarters, 0)

    return images[..., None], read


def information_on_places(model, read, count=500):
    """Mutual information of the code and the place, in nats; log 4 at most."""
    inputs = train.draw_inputs(model.generator, count, [9, 9])
    codes = inputs[1].numpy()[:, 0].argmax(1)
    return mutual_info_score(codes, read(train.to_uint8(model.generator, inputs)))


def test_an_infogan_finds_the_places_without_labels():
    images, read = four_places(2_000)
    model = build((16, 16, 1), latent_dim=8, continuous=0, width=8)
    assert information_on_places(model, read) < 0.3
    model.fit(data.batches(images, 64, 0, 0, 400), verbose=0)
    assert information_on_places(model, read) > 0.9
    bound = infogan.test.bounds(model.generator, model.discriminator, 0)
    assert bound["bound, categorical 1 (nats, of at most 2.3026)"] > 1.8
    # Without Q's step nothing makes G use its code.
    model = build((16, 16, 1), latent_dim=8, continuous=0, width=8)
    model.q_optimizer.learning_rate = 0.0
    model.fit(data.batches(images, 64, 0, 0, 400), verbose=0)
    assert information_on_places(model, read) < 0.4


def test_match_is_the_best_one_to_one():
    codes, digits = np.array([0, 0, 0, 1, 1, 2, 2, 9]), np.array([3, 3, 5, 3, 3, 5, 7, 0])
    matched = infogan.test.match(codes, digits)
    assert sorted(matched) == list(range(10))
    # 0 and 1 both read 3 twice: one of them takes another, and 0 has 5 to give.
    assert (matched[codes] == digits).sum() == 2 + 1 + 1 + 1


def bar(width, tangent, size=32):
    """A bar of 20 rows that leans to the right by `tangent`, drawn sixteen times finer and averaged."""
    fine = np.mgrid[: size * 16, : size * 16] / 16 + 1 / 32
    y, x = size / 2 - fine[0], fine[1] - size / 2
    inside = (abs(y) < 10) & (abs(x - tangent * y) < width / 2 * np.hypot(1, tangent))
    grey = inside.reshape(size, 16, size, 16).mean((1, 3))
    return np.round(grey * 255).astype(np.uint8)[None, ..., None]


def test_slant_and_stroke_width_of_bars():
    for tangent in (-0.5, 0.0, 0.25, 0.6):
        assert infogan.test.slant(bar(3, tangent))[0] == pytest.approx(tangent, abs=0.03)
    for tangent in (0.0, 0.5):
        for width in (2, 3, 4):
            # Both ends of a bar are outline too: area w l, outline 2 (w + l).
            expected = 2 * width * 20 / (2 * (width / np.hypot(1, tangent) + 20))
            assert infogan.test.stroke_width(bar(width, tangent))[0] == pytest.approx(expected, rel=0.15)
    assert infogan.test.stroke_width(np.zeros([1, 32, 32, 1], np.uint8))[0] == 0


def test_correlation_is_within_a_digit():
    """Both the value and the shape are another on average for each digit."""
    rng = np.random.default_rng(0)
    values, digits = rng.uniform(-1, 1, 5_000), rng.integers(0, 10, 5_000)
    shape = values - 100.0 * digits + rng.uniform(-1, 1, 5_000)
    assert infogan.test.correlation(values + digits, shape, digits) == pytest.approx(0.5**0.5, abs=0.03)
    assert abs(infogan.test.correlation(values + digits, shape[::-1], digits[::-1])) < 0.05


class Known:
    """Images of three rows: category 1 sets the level of the top one, noise that of the next, the continuous code that
    of the last; category 2 does nothing."""

    def __init__(self):
        self.inputs = [keras.Input([3], name="noise"), keras.Input([2, 10], name="categorical")]
        self.inputs += [keras.Input([1], name="continuous")]
        self.input_shape = [tensor.shape for tensor in self.inputs]

    def __call__(self, inputs, training):
        noise, categorical, continuous = inputs
        top = tf.cast(tf.argmax(categorical[:, 0], -1), tf.float32) / 5 - 0.9
        top, bottom, right = top[:, None], noise[:, :1], continuous
        levels = tf.stack([top, bottom, right], 1)
        return tf.clip_by_value(tf.tile(levels[:, :, None], [1, 1, 4, 1]), -1, 1)


def test_attribute_numbers_of_a_known_generator():
    def read(pictures):
        return (pictures[:, :, 0, 0] > 127).astype(np.uint8)

    numbers = infogan.test.attribute_numbers(Known(), read, ["top", "middle", "last"], 0)
    assert numbers["categorical 1 changes most"] == "top" and numbers["continuous 1 changes most"] == "last"
    for code in ("categorical 1", "continuous 1"):
        assert numbers[f"{code}: change (share)"] == 1
        # The range of ten normal variables is below 4.47 of their standard deviations in 95 % of the cases.
        assert numbers[f"{code}: change by chance (share)"] == pytest.approx(4.47 * 0.5 / 200**0.5, rel=0.15)
    assert numbers["categorical 2 changes most"] == "nothing"
    assert numbers["categorical 2: change (share)"] == numbers["categorical 2: change by chance (share)"] == 0
    assert numbers["categorical 1: each attribute's change (share)"] == {"top": 1.0, "middle": 0.0, "last": 0.0}


def test_generate_is_in_inference_mode():
    """An image does not depend on its neighbours in the batch."""
    generator = build().generator
    inputs = train.draw_inputs(generator, 5, [0, 0])
    images = train.to_uint8(generator, inputs)
    np.testing.assert_array_equal(images[:2], train.to_uint8(generator, [tensor[:2] for tensor in inputs]))
    drawn = train.generate(generator, 5, 0)
    assert drawn.shape == (5, 32, 32, 1) and drawn.dtype == np.uint8
    np.testing.assert_array_equal(drawn, train.generate(generator, 5, 0))
    assert (drawn != train.generate(generator, 5, 1)).any()


class Drawer:
    """Real digits, one class per category in another order, sheared by one code and thickened by the other."""

    order = (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)

    def __init__(self, images):
        self.by_digit = [images.train.images[images.train.labels == digit] for digit in range(10)]
        self.inputs = [keras.Input(shape, name=name) for name, shape in (("noise", [3]), ("categorical", [1, 10]))]
        self.inputs += [keras.Input([2], name="continuous")]
        self.input_shape = [tensor.shape for tensor in self.inputs]

    def __call__(self, inputs, training):
        noise, categorical, continuous = (tensor.numpy() for tensor in inputs)
        drawn = []
        for z, code, (lean, bold) in zip(noise, categorical[:, 0].argmax(-1), continuous):
            choice = self.by_digit[self.order[code]]
            image = choice[int((z[0] + 1) / 2 * len(choice))][..., 0] / 255.0
            image = ndimage.affine_transform(image, [[1, 0], [0.3 * lean, 1]], [0, -0.3 * lean * 15.5], order=1)
            drawn.append(ndimage.grey_dilation(image, 3) * (bold + 1) / 2 + image * (1 - bold) / 2)
        return tf.constant(np.stack(drawn)[..., None] * 2 - 1, tf.float32)


class Reader:
    """Q of logits that are right, but for a code of its own for each digit, and every tenth image."""

    def __init__(self, images):
        self.images = images

    def predict(self, scaled, batch_size, verbose):
        part = next(part for part in self.images.splits().values() if len(part.labels) == len(scaled))
        codes = (part.labels + 3) % 10
        codes[::10] = (codes[::10] + 1) % 10
        return [None, np.eye(10)[codes][:, None]]


def test_digit_numbers_of_a_known_generator(digits):
    found = infogan.test.digit_numbers(Drawer(digits), Reader(digits), digits, 0, count=1_000)
    assert [*found["each code is the digit read (share)"]] == [f"{i}: {digit}" for i, digit in enumerate(Drawer.order)]
    for digit, shares in zip(Drawer.order, found["digits 0 to 9 read of each code (shares)"].values()):
        assert np.argmax(shares) == digit and sum(shares) == pytest.approx(1, abs=1e-3)
    assert found["code is the digit read (share)"] > 0.95
    assert found["code and digit read, normalised MI"] > 0.9
    assert list(found["each code is the digit read (share)"])[:3] == ["0: 3", "1: 1", "2: 4"]
    assert found["Q tells real test images' digits (share)"] == pytest.approx(0.9)
    assert (
        found["continuous 1, correlation with slant"] > 0.5 > 0.15 > abs(found["continuous 2, correlation with slant"])
    )
    assert found["continuous 2, correlation with stroke width"] > 0.5
    assert abs(found["continuous 1, correlation with stroke width"]) < 0.2


def test_an_untrained_generators_codes_are_no_digits(digits):
    model = build()
    found = infogan.test.digit_numbers(model.generator, model.discriminator, digits, 0, count=500)
    assert found["code is the digit read (share)"] < 0.25
    assert found["code and digit read, normalised MI"] < 0.1
