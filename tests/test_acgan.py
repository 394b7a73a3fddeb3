from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

import acgan.test
from acgan import train
from common import classifier, datasets, devices

ROW = train.RUNS["mnist_padded"]["model"]


def build(**changes):
    return train.build((32, 32, 1), **ROW | {"latent_dim": 6, "width": 4, "seed": 3} | changes)


def encoded(labels, size):
    return np.float32(labels)[:, None] if size == 1 else np.eye(size, dtype=np.float32)[labels]


@pytest.mark.parametrize("noise, label_dim", [("normal", 1), ("uniform", 2), ("normal", 10)])
def test_samples_are_even_and_apart_from_the_noise(noise, label_dim):
    generator, classes = build(label_dim=label_dim, noise=noise).generator, max(2, label_dim)
    z, labels = train.sample_inputs(generator, 20_000, tf.constant([1, 2]))
    labels = labels.numpy()
    values = labels[:, 0].astype(int) if label_dim == 1 else labels.argmax(1)
    np.testing.assert_array_equal(labels, encoded(values, label_dim))
    np.testing.assert_allclose(np.bincount(values) / 20_000, 1 / classes, atol=0.015)
    assert z.numpy().mean() == pytest.approx(0, abs=0.02)
    assert z.numpy().std() == pytest.approx(1 if noise == "normal" else 3**-0.5, abs=0.02)
    assert (np.abs(z).max() <= 1) == (noise == "uniform")
    assert (z != train.sample_noise(generator, 20_000, [1, 2])).numpy().all()  # the labels are drawn with this seed


@pytest.mark.parametrize("label_dim", [1, 2, 10])
def test_labels_out_of_range_are_refused(label_dim):
    for label in (-1, max(2, label_dim)):
        labels, generator = tf.constant([0, label]), build(label_dim=label_dim).generator
        with pytest.raises(tf.errors.InvalidArgumentError):
            train.encode(labels, generator)
        compiled = tf.function(train.encode, jit_compile=True)(labels, generator)
        assert np.isnan(compiled).all(1).tolist() == [False, True]


def test_labels_that_are_no_integers_are_refused():
    with pytest.raises(TypeError, match="integer"):
        build(label_dim=10).train_step((tf.zeros([4, 32, 32, 1], tf.uint8), tf.fill([4], 0.9)))


@pytest.mark.parametrize("label_dim", [1, 2, 10])
def test_a_step_is_the_papers(label_dim):
    """D's update on all four terms, then G's with the updated D, match plain steps with a forward pass each."""
    model, twin = build(label_dim=label_dim), build(label_dim=label_dim)
    for adam in (model.g_optimizer, model.d_optimizer):
        assert [float(adam.learning_rate), float(adam.beta_1)] == pytest.approx([2e-4, 0.5])
    # Plain gradient descent reveals the size of a gradient, which Adam's first step hides.
    model.g_optimizer, model.d_optimizer = keras.optimizers.SGD(0.2), keras.optimizers.SGD(0.1)
    model.g_optimizer.build(model.generator.trainable_variables)
    model.d_optimizer.build(model.discriminator.trainable_variables)
    rng, seed = np.random.default_rng(0), model.step_seed()
    images = rng.integers(0, 256, [8, 32, 32, 1], np.uint8)
    values = rng.integers(0, max(2, label_dim), 8, np.uint8)
    logs = model.train_step((tf.constant(images), tf.constant(values[:, None])))  # as Keras has CIFAR-10's labels
    assert (model.step_seed() != seed).numpy().any()  # the next step draws different noise

    noise, labels = train.sample_noise(twin.generator, 8, seed), tf.constant(encoded(values, label_dim))

    def judge(pictures, real):
        """Returns -log of the correct source's and the correct label's probability, and the label accuracy."""
        source, label = twin.discriminator(pictures, training=True)
        p = tf.sigmoid(source) if real else 1 - tf.sigmoid(source)
        q = tf.concat([1 - tf.sigmoid(label), tf.sigmoid(label)], 1) if label_dim == 1 else tf.nn.softmax(label)
        right = tf.gather(q, values.astype(int), batch_dims=1)
        share = np.mean(np.argmax(q, 1) == values)
        return -tf.reduce_mean(tf.math.log(p)), -tf.reduce_mean(tf.math.log(right)), share

    def descend(loss, tape, variables, rate):
        for weights, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
            weights.assign_sub(rate * gradient)

    with tf.GradientTape() as tape:
        source_real, label_real, accuracy_real = judge(images / np.float32(127.5) - 1, True)
        source_fake, label_fake, accuracy_fake = judge(twin.generator([noise, labels], training=True), False)
        d_loss = source_real + source_fake + label_real + label_fake
    descend(d_loss, tape, twin.discriminator.trainable_variables, 0.1)
    with tf.GradientTape() as tape:
        g_loss = sum(judge(twin.generator([noise, labels], training=True), True)[:2])
    descend(g_loss, tape, twin.generator.trainable_variables, 0.2)

    expected = [d_loss, g_loss, source_real, source_fake, label_real, label_fake, accuracy_real, accuracy_fake]
    np.testing.assert_allclose([logs[metric.name] for metric in model.metrics], expected, rtol=1e-4)
    for a, b in zip(model.trainable_variables, twin.trainable_variables, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5, err_msg=a.path)


def test_an_acgan_learns_its_labels():
    """The images show a blob at some height, at the left or, in class 1, at the right."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 1_000, np.uint8)
    y, x = np.mgrid[:32, :32]
    at_y, at_x = rng.uniform(8, 22, [1_000, 1, 1]), 7 + 16 * labels[:, None, None] + rng.uniform(-2, 2, [1_000, 1, 1])
    images = (220 * np.exp(-((y - at_y) ** 2 + (x - at_x) ** 2) / 32)).astype(np.uint8)[..., None]

    def read(pictures):
        light = pictures.astype(float)
        right = light[:, :, 16:].mean((1, 2, 3)) > light[:, :, :16].mean((1, 2, 3))
        return right, light[:, 16:].mean((1, 2)) > light[:, :16].mean((1, 2))

    model = build(label_dim=2, latent_dim=16, learning_rate=2e-3)
    before = acgan.test.label_numbers(model.generator, 2, read, ["height"], 0, count=500)
    devices.tune(model, (32, 32, 1), 10, model.distribute_strategy)
    model.fit(datasets.batches(images, 32, 0, 0, 200, labels), verbose=0)
    after = acgan.test.label_numbers(model.generator, 2, read, ["height"], 0, count=500)
    assert before["asked label read off both of a pair (share)"] < 0.3
    assert after["asked label read off both of a pair (share)"] > 0.95
    assert after["other attributes changed by the noise (share)"] > 0.2  # not one image per label


def test_label_numbers_of_a_known_generator():
    """Grey images: 100 lighter for label 1, plus a tenth of the first noise value, which sets the attribute."""

    class Known:
        inputs, input_shape = [keras.Input([3], name="noise")], ((None, 3), (None, 1))

        def __call__(self, inputs, training):
            noise, label = inputs
            level = -0.5 + label[:, :1] * 100 / 127.5 + noise[:, :1] / 10
            return tf.tile(level[:, None, None], [1, 4, 4, 1])

    def read(pictures):
        level = pictures[:, 0, 0, 0]
        return level > 115, (level.astype(int) % 100 > 63)[:, None]

    numbers = acgan.test.label_numbers(Known(), 2, read, ["dark"], 0)
    assert numbers["asked label read (share)"] > 0.99
    assert numbers["change by the label (grey levels)"] == pytest.approx(100, abs=1)
    assert numbers["change by the noise (grey levels)"] == pytest.approx(127.5 / 10 * 2**0.5, rel=0.05)
    assert numbers["other attributes changed by the label (share)"] < 0.02
    by_noise = numbers["other attributes changed by the noise (share)"]
    assert by_noise == pytest.approx(0.5, abs=0.06) and numbers["each changed by the noise (share)"] == {
        "dark": by_noise
    }


def test_report_reads_the_label_off_real_images(monkeypatch):
    found, names = np.zeros([4, 40], int), classifier.readable_attributes()
    found[:, names.index("Smiling")] = [1, 0, 0, 0]
    monkeypatch.setattr(classifier, "read_labels", lambda *_: found)
    monkeypatch.setattr(acgan.test, "label_numbers", lambda *_: {})
    monkeypatch.setattr(acgan.test.plots, "pairs", lambda *_: None)
    images = SimpleNamespace(names=names, dev=SimpleNamespace(images=None, targets=lambda *_: np.array([1, 0, 1, 0])))
    experiment = SimpleNamespace(row=train.RUNS["celeba_smiling"], seed=0, title="", folder=Path())
    networks = {"generator": train.build((64, 64, 3), **experiment.row["model"] | {"width": 2}).generator}
    assert acgan.test.report(experiment, networks, images) == {"label read off real dev images (share)": 0.75}
