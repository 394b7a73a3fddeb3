import functools
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage, stats
from sklearn.metrics import mutual_info_score

import infogan.test
from common import datasets, devices
from infogan import train

ROW = train.RUNS["mnist_padded"]["model"]


def build(**changes):
    return train.build((32, 32, 1), **ROW | {"latent_dim": 6, "width": 4, "seed": 3} | changes)


def test_information_by_hand():
    """log 10 + log of the softmax probability; log 2 + log of the normal density with variance >= exp(-2)."""
    rng = np.random.default_rng(0)
    logits, mean, log_variance = rng.normal(size=[3, 2, 10]), rng.normal(size=[3, 1]), np.array([[-5.0], [-1.0], [1.0]])
    values, continuous = rng.integers(0, 10, [3, 2]), rng.uniform(-1, 1, [3, 1])
    q = [tf.constant(logits), tf.stack([mean, log_variance], 1)]
    bounds = train.information([tf.one_hot(values, 10, dtype=tf.float64), tf.constant(continuous)], q)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    chosen = np.take_along_axis(p, values[..., None], -1)[..., 0]
    np.testing.assert_allclose(bounds[0], np.log(10) + np.log(chosen).mean(0))
    density = stats.norm.pdf(continuous, mean, np.exp(np.array([[-2.0], [-1.0], [1.0]]) / 2))
    np.testing.assert_allclose(bounds[1], np.log(2) + np.log(density).mean(0))


def test_codes_are_even_and_apart_from_the_noise(monkeypatch):
    seeds, uniform = set(), tf.random.stateless_uniform
    monkeypatch.setattr(tf.random, "stateless_uniform", lambda *args: seeds.add((*args[1].numpy(),)) or uniform(*args))
    inputs = train.sample_inputs(build(categorical=2).generator, 20_000, tf.constant([1, 2]))
    noise, categorical, continuous = (tensor.numpy() for tensor in inputs)
    np.testing.assert_array_equal(np.sort(categorical), np.eye(10)[-1] + np.zeros([20_000, 2, 1]))  # one-hot
    np.testing.assert_allclose(categorical.mean(0), 0.1, atol=0.01)
    for drawn in (noise, continuous):
        assert drawn.min() >= -1 and drawn.max() < 1
        np.testing.assert_allclose(drawn.std(0), 3**-0.5, atol=0.01)
    assert len(seeds) == 3
    assert len(train.sample_inputs(build(continuous=0).generator, 5, [0, 0])) == 2


@pytest.mark.parametrize("continuous", [0, 2])
@pytest.mark.parametrize("q_rate", [None, 0.05], ids=["joint", "own"])
def test_a_step_is_the_papers_or_report_cs(q_rate, continuous):
    """D's update, G's with the updated D, and Q's in both or separately, match plain steps with a forward pass each.

    Q's own layers are those that D's loss has no gradient for; a separate update of Q changes them and G.
    """
    changes = dict(categorical=2, continuous=continuous, continuous_weight=0.3, q_learning_rate=q_rate)
    model, twin = build(**changes), build(**changes)
    for name, rate, plain in (("d", 1e-3, 0.1), ("g", 1e-3, 0.2), ("q", q_rate, q_rate))[: 3 if q_rate else 2]:
        adam = getattr(model, f"{name}_optimizer")
        assert [float(adam.learning_rate), float(adam.beta_1)] == pytest.approx([rate, 0.5])
        # Plain gradient descent reveals the size of a gradient, which Adam's first step hides.
        setattr(model, f"{name}_optimizer", keras.optimizers.SGD(plain))
        getattr(model, f"{name}_optimizer").build(adam._trainable_variables)
    images, seed = np.random.default_rng(0).integers(0, 256, [8, 32, 32, 1], np.uint8), model.step_seed()
    logs = model.train_step(tf.constant(images))
    assert (model.step_seed() != seed).numpy().any()  # the next step draws different noise

    d, g, inputs = twin.discriminator, twin.generator, train.sample_inputs(twin.generator, 8, seed)

    def losses(pictures):
        """Returns -log of the probabilities of real and of generated, the bounds of the codes, and Q's loss."""
        logits, *q = d(pictures, training=True)
        real, fake = (tf.reduce_mean(tf.math.log(1 + tf.exp(sign * logits))) for sign in (-1, 1))
        bounds = np.log(10) + tf.reduce_mean(tf.math.log(tf.reduce_sum(tf.nn.softmax(q[0]) * inputs[1], -1)), 0)
        loss = -tf.reduce_sum(bounds)
        if continuous:
            variance = tf.exp(q[1][:, 1])
            density = tf.exp(-((inputs[2] - q[1][:, 0]) ** 2) / (2 * variance)) / tf.sqrt(2 * np.pi * variance)
            gaussian = np.log(2) + tf.reduce_mean(tf.math.log(density), 0)
            bounds, loss = tf.concat([bounds, gaussian], 0), loss - 0.3 * tf.reduce_sum(gaussian)
        return real, fake, bounds, loss

    with tf.GradientTape(persistent=True) as tape:
        d_loss = losses(images / np.float32(127.5) - 1)[0]
        _, fake, _, q_loss = losses(g(inputs, training=True))
        d_loss += fake
    by_d, by_q = (tape.gradient(loss, d.trainable_variables) for loss in (d_loss, q_loss))
    own = [weights for weights, gradient in zip(d.trainable_variables, by_d) if gradient is None]
    assert len(own) == (6 if continuous else 4) and sum(gradient is None for gradient in by_q) == 2  # the source's
    for weights, gradient in [*zip(d.trainable_variables, by_d), *([] if q_rate else zip(d.trainable_variables, by_q))]:
        weights.assign_sub(0.1 * (0 if gradient is None else gradient))
    with tf.GradientTape(persistent=True) as tape:
        g_loss, _, bounds, q_loss = losses(g(inputs, training=True))
    by_g, by_q = (tape.gradient(loss, g.trainable_variables) for loss in (g_loss, q_loss))
    for weights, gradient in zip(own, tape.gradient(q_loss, own)):
        weights.assign_sub((q_rate or 0) * gradient)
    for weights, first, second in zip(g.trainable_variables, by_g, by_q):
        weights.assign_sub(0.2 * first + (q_rate or 0.2) * second)

    found = [float(logs[metric.name]) for metric in model.metrics]
    np.testing.assert_allclose(found, [d_loss, g_loss, q_loss, *bounds], rtol=1e-3, atol=1e-4)
    for a, b in zip(model.trainable_variables, twin.trainable_variables, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5, err_msg=a.path)


@pytest.mark.parametrize("q_rate", [None, 2e-3], ids=["joint", "own"])
def test_an_infogan_finds_the_places_without_labels(q_rate):
    """The images show a blob at one of four places; the information is in nats, at most log 4 = 1.39."""
    rng = np.random.default_rng(0)
    at = np.array([[8, 8], [8, 23], [23, 8], [23, 23]])[rng.integers(0, 4, 1_000)] + rng.uniform(-2, 2, [1_000, 2])
    y, x = np.mgrid[:32, :32]
    distance = (y - at[:, 0, None, None]) ** 2 + (x - at[:, 1, None, None]) ** 2
    images = (220 * np.exp(-distance / 32)).astype(np.uint8)[..., None]
    model = build(continuous=0, d_learning_rate=1e-3, g_learning_rate=2e-3, q_learning_rate=q_rate)

    inputs = train.sample_inputs(model.generator, 500, [9, 9])

    def information():
        drawn = train.to_uint8(model.generator, inputs)
        quarters = [drawn[:, i : i + 16, j : j + 16].mean((1, 2, 3)) for i in (0, 16) for j in (0, 16)]
        return mutual_info_score(inputs[1].numpy()[:, 0].argmax(1), np.argmax(quarters, 0))

    before = information()
    devices.tune(model, (32, 32, 1), 10, model.distribute_strategy)
    model.fit(datasets.batches(images, 32, 0, 0, 300), verbose=0)
    bound = infogan.test.bounds(model.generator, model.discriminator, 0)
    assert before < 0.3 and information() > 0.5
    assert bound["bound, categorical 1 (nats, of at most 2.3026)"] > 1


def test_match_is_the_best_one_to_one():
    codes, digits = np.array([0, 0, 0, 1, 1, 2, 2, 9]), np.array([3, 3, 5, 3, 3, 5, 7, 0])
    matched = infogan.test.match(codes, digits)
    # Codes 0 and 1 both have 3 twice: one of them must take another digit, and 0 can take 5.
    assert sorted(matched) == [*range(10)] and (matched[codes] == digits).sum() == 2 + 1 + 1 + 1


@pytest.mark.parametrize("width", [2, 3, 4])
@pytest.mark.parametrize("tangent", [-0.5, 0.0, 0.6])
def test_slant_and_stroke_width_of_a_bar(width, tangent):
    """The bar has 20 rows and leans to the right by `tangent`; it is drawn sixteen times finer and averaged."""
    fine = np.mgrid[:512, :512] / 16 + 1 / 32
    y, x = 16 - fine[0], fine[1] - 16
    inside = (abs(y) < 10) & (abs(x - tangent * y) < width / 2 * np.hypot(1, tangent))
    bar = np.round(inside.reshape(32, 16, 32, 16).mean((1, 3)) * 255).astype(np.uint8)[None, ..., None]
    assert infogan.test.slant(bar)[0] == pytest.approx(tangent, abs=0.03)
    # Its ends are part of the outline: area w l, outline 2 (w + l).
    expected = 2 * width * 20 / (2 * (width / np.hypot(1, tangent) + 20))
    assert infogan.test.stroke_width(bar)[0] == pytest.approx(expected, rel=0.15)
    assert infogan.test.stroke_width(0 * bar)[0] == 0


def test_correlation_is_within_a_digit():
    """The means of both the value and the shape differ between digits."""
    rng = np.random.default_rng(0)
    values, digits = rng.uniform(-1, 1, 5_000), rng.integers(0, 10, 5_000)
    shape = values - 100.0 * digits + rng.uniform(-1, 1, 5_000)
    assert infogan.test.correlation(values + digits, shape, digits) == pytest.approx(0.5**0.5, abs=0.03)
    assert abs(infogan.test.correlation(values + digits, shape[::-1], digits[::-1])) < 0.05


class Known:
    """Images with one value per row: category 1 sets the first, noise the second, the continuous code the last."""

    shapes = ("noise", [3]), ("categorical", [2, 10]), ("continuous", [1])
    inputs = tuple(keras.Input(shape, name=name) for name, shape in shapes)
    input_shape = tuple(tensor.shape for tensor in inputs)

    def __call__(self, inputs, training):
        noise, categorical, continuous = inputs
        top = tf.argmax(categorical[:, :1], -1, tf.int32) / 5 - 0.9
        levels = tf.stack([tf.cast(top, tf.float32), noise[:, :1], continuous], 1)
        return tf.tile(levels[:, :, None], [1, 1, 4, 1])


def test_attribute_numbers_of_a_known_generator():
    names = "top", "middle", "last"
    numbers = infogan.test.attribute_numbers(Known(), lambda x: np.uint8(x[:, :, 0, 0] > 127), names, 0)
    assert numbers["categorical 1 changes most"] == "top" and numbers["continuous 1 changes most"] == "last"
    for code in ("categorical 1", "continuous 1"):
        assert numbers[f"{code}: change (share)"] == 1
        # The range of ten normal variables is below 4.47 standard deviations in 95% of cases.
        assert numbers[f"{code}: change by chance (share)"] == pytest.approx(4.47 * 0.5 / 200**0.5, rel=0.15)
    assert numbers["categorical 2 changes most"] == "nothing"
    assert numbers["categorical 2: change (share)"] == numbers["categorical 2: change by chance (share)"] == 0
    assert numbers["categorical 1: each attribute's change (share)"] == {"top": 1.0, "middle": 0.0, "last": 0.0}


class Drawer:
    """G and Q. G draws real digits, a class per category, sheared by one continuous code and thickened by the other.

    Q reads a code of its own for each digit, except for every tenth test image and every fifth other one.
    """

    order = (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)
    inputs = Known.inputs[0], keras.Input([1, 10], name="categorical"), keras.Input([2], name="continuous")
    input_shape = tuple(tensor.shape for tensor in inputs)

    def __init__(self, digits):
        self.by_digit = [digits.train.images[digits.train.labels == digit] for digit in self.order]
        self.test = len(digits.test.labels)
        self.labels = {len(part.labels): part.labels for part in digits.splits().values()}

    def __call__(self, inputs, training):
        noise, categorical, continuous = (tensor.numpy() for tensor in inputs)
        drawn = []
        for z, code, (lean, bold) in zip(noise, categorical[:, 0].argmax(-1), continuous):
            choice = self.by_digit[code]
            image = choice[int((z[0] + 1) / 2 * len(choice))][..., 0] / 255.0
            image = ndimage.affine_transform(image, [[1, 0], [0.3 * lean, 1]], [0, -0.3 * lean * 15.5], order=1)
            drawn.append(ndimage.grey_dilation(image, 3) * (bold + 1) / 2 + image * (1 - bold) / 2)
        return tf.constant(np.stack(drawn)[..., None] * 2 - 1, tf.float32)

    def predict(self, scaled, batch_size, verbose):
        codes = (self.labels[len(scaled)] + 3) % 10
        wrong = slice(None, None, 10 if len(scaled) == self.test else 5)
        codes[wrong] = (codes[wrong] + 1) % 10
        return [None, np.eye(10)[codes][:, None]]


def test_digit_numbers_of_a_known_generator(digits):
    known = Drawer(digits)
    found = infogan.test.digit_numbers(known, known, digits, 0, count=1_000)
    each, read = found["each code is the digit read (share)"], found["digits 0 to 9 read of each code (shares)"]
    assert [*each] == [f"{code}: {digit}" for code, digit in enumerate(known.order)] and min(each.values()) > 0.85
    assert [(int(np.argmax(row)), round(sum(row), 3)) for row in read.values()] == [(i, 1) for i in known.order]
    assert found["code is the digit read (share)"] > 0.95 and found["code and digit read, normalised MI"] > 0.9
    assert found["Q tells real test images' digits (share)"] == pytest.approx(0.9)
    for i, right, other in ((1, "slant", "stroke width"), (2, "stroke width", "slant")):
        assert found[f"continuous {i}, correlation with {right}"] > 0.5
        assert abs(found[f"continuous {i}, correlation with {other}"]) < 0.2


@pytest.mark.parametrize(("dataset", "channels", "categorical"), [("mnist_padded", 1, 2), ("cifar10", 3, 1)])
def test_report_of_ones_own_settings(dataset, channels, categorical, digits, monkeypatch, tmp_path):
    """Two categorical codes, or images that are no digits: categories are not named after digits."""
    few = functools.partial(infogan.test.digit_numbers, count=100)
    monkeypatch.setattr(infogan.test, "digit_numbers", few)
    settings = ROW | {"width": 4, "categorical": categorical, "continuous": 1}
    networks = train.build((32, 32, channels), **settings).networks()
    experiment = types.SimpleNamespace(row={"dataset": dataset}, seed=0, folder=tmp_path, title="mine")
    own = infogan.test.report(experiment, networks, digits)
    codes = [f"categorical {i + 1}" for i in range(categorical)] + ["continuous 1"]
    assert {path.stem for path in tmp_path.iterdir()} == {code.replace(" ", "_") for code in codes}
    assert [key.split(", ")[1].partition(" (")[0] for key in own if key.startswith("bound")] == codes
    assert ("code is the digit read (share)" in own) == (channels == 1)
