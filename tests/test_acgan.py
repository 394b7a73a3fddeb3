import keras
import numpy as np
import pytest
import tensorflow as tf

import acgan.test
from acgan import train
from common import data, run

ROW = {key: value for key, value in train.RUNS["mnist"].items() if key not in run.OURS}


def build(shape=(32, 32, 1), **changes):
    return train.build(shape, **ROW | {"latent_dim": 6, "width": 4, "seed": 3} | changes)


def batch(classes, count=8):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, [count, 32, 32, 1], np.uint8)
    return tf.constant(images), tf.constant(rng.integers(0, classes, count).astype(np.uint8))


def test_label_loss_by_hand():
    """-log of a softmax's or of a sigmoid's probability of the right label."""
    logits = np.array([[0.0, 1.0, 3.0], [2.0, -1.0, 0.5]])
    labels = tf.one_hot([2, 1], 3, dtype=tf.float64)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert float(train.label_loss(labels, logits)) == pytest.approx(-np.log([p[0, 2], p[1, 1]]).mean())
    logits = tf.constant([[1.0], [-2.0]])
    expected = -(np.log(1 / (1 + np.exp(-1))) + np.log(1 - 1 / (1 + np.exp(2)))) / 2
    assert float(train.label_loss(tf.constant([[1.0], [0.0]]), logits)) == pytest.approx(expected, rel=1e-6)


def test_labels_as_the_generator_takes_them():
    labels = tf.constant([1, 0, 1])
    assert train.encode(labels, build(classes=2).generator).numpy().tolist() == [[1.0], [0.0], [1.0]]
    assert train.encode(labels, build(classes=3).generator).numpy().tolist() == [[0, 1, 0], [1, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize("classes", [2, 10])
def test_labels_are_drawn_evenly_and_apart_from_the_noise(classes):
    generator = build(classes=classes).generator
    noise, labels = train.draw_inputs(generator, 20_000, tf.constant([1, 2]))
    labels = labels[:, 0].numpy().astype(int) if classes == 2 else labels.numpy().argmax(1)
    np.testing.assert_allclose(np.bincount(labels) / 20_000, 1 / classes, atol=0.015)
    assert abs(noise.numpy().mean()) < 0.02 and noise.numpy().std() == pytest.approx(1, abs=0.02)
    same = tf.random.stateless_normal(noise.shape, [1, 2])
    assert (noise != same).numpy().all()  # the labels are drawn of this seed


@pytest.mark.parametrize("classes", [2, 10])
def test_a_step_is_the_papers(classes):
    """D's update on all four terms, then G's from the updated D: against plain steps with a forward pass each."""
    model, twin = build(classes=classes), build(classes=classes)
    # Plain gradient descent shows a gradient's size, which Adam's first step hides.
    model.g_optimizer, model.d_optimizer = (keras.optimizers.SGD(0.1) for _ in range(2))
    model.g_optimizer.build(model.generator.trainable_variables)
    model.d_optimizer.build(model.discriminator.trainable_variables)
    noise, asked = train.draw_inputs(model.generator, 8, model.draw())
    images, labels = batch(classes)
    logs = model.train_step((images, labels))

    def log_likelihoods(pictures, real, encoded):
        """Of the right source and of the right label, means over the batch, from probabilities."""
        source, label = twin.discriminator(pictures, training=True)
        p = tf.sigmoid(source) if real else 1 - tf.sigmoid(source)
        if classes == 2:
            q = tf.where(encoded == 1.0, tf.sigmoid(label), 1 - tf.sigmoid(label))
        else:
            q = tf.reduce_sum(tf.nn.softmax(label) * encoded, 1)
        return tf.reduce_mean(tf.math.log(p)), tf.reduce_mean(tf.math.log(q))

    reals = images.numpy() / np.float32(127.5) - 1
    encoded = train.encode(tf.cast(labels, tf.int32), twin.generator)
    with tf.GradientTape() as tape:
        fakes = twin.generator([noise, asked], training=True)
        source_real, label_real = log_likelihoods(reals, True, encoded)
        source_fake, label_fake = log_likelihoods(fakes, False, asked)
        d_loss = -(source_real + source_fake + label_real + label_fake)
    variables = twin.discriminator.trainable_variables
    for weights, gradient in zip(variables, tape.gradient(d_loss, variables)):
        weights.assign_sub(0.1 * gradient)
    with tf.GradientTape() as tape:
        source, label = log_likelihoods(twin.generator([noise, asked], training=True), True, asked)
        g_loss = -source - label
    variables = twin.generator.trainable_variables
    for weights, gradient in zip(variables, tape.gradient(g_loss, variables)):
        weights.assign_sub(0.1 * gradient)

    expected = {"d_loss": d_loss, "g_loss": g_loss, "source_real": -source_real, "source_fake": -source_fake}
    expected |= {"label_real": -label_real, "label_fake": -label_fake}
    assert {name: float(value) for name, value in logs.items()} == pytest.approx(
        {name: float(value) for name, value in expected.items()}, rel=1e-4
    )
    for a, b in zip(model.trainable_variables, twin.trainable_variables):
        np.testing.assert_allclose(a, b, atol=1e-5, err_msg=a.path)


def test_the_networks_of_the_faces_are_the_reports():
    smiling, male = (train.RUNS[name] for name in ("celeba_smiling", "celeba_male"))
    assert {key for key in smiling if smiling[key] != male[key]} == {"labels", "reported"}
    for name, labels in (("celeba_smiling", "Smiling"), ("celeba_male", "Male")):
        row = train.RUNS[name]
        assert row["labels"] == labels
        model = train.build((64, 64, 3), **{key: value for key, value in row.items() if key not in run.OURS})
        dense = next(layer for layer in model.generator.layers if isinstance(layer, keras.layers.Dense))
        assert dense.kernel.shape == (101, 4 * 4 * 256)
        shapes = [layer.output.shape[2:] for layer in model.generator.layers if "conv" in layer.name]
        assert shapes == [(8, 128), (16, 64), (32, 32), (64, 3)]
        shapes = [layer.output.shape[2:] for layer in model.discriminator.layers if "conv" in layer.name]
        assert shapes == [(32, 32), (16, 64), (8, 128), (4, 256)]
        assert [output.shape for output in model.discriminator.outputs] == [(None, 1), (None, 1)]
        for optimizer in (model.d_optimizer, model.g_optimizer):
            assert isinstance(optimizer, keras.optimizers.Adam) and float(optimizer.beta_1) == 0.5
            assert float(optimizer.learning_rate) == pytest.approx(2e-4)


def two_classes(count):
    """16x16 images of a blob at the left or, of class 1, at the right, higher or lower: and what reads them."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, count).astype(np.uint8)
    y, x = np.mgrid[:16, :16]
    at_y, at_x = rng.uniform(4, 11, [count, 1, 1]), 3.5 + 8 * labels[:, None, None] + rng.uniform(-1, 1, [count, 1, 1])
    images = 220 * np.exp(-((y - at_y) ** 2 + (x - at_x) ** 2) / 8) + rng.uniform(0, 20, [count, 16, 16])

    def read(pictures):
        light = pictures.astype(float)
        left, right, top, bottom = light[:, :, :8], light[:, :, 8:], light[:, :8], light[:, 8:]
        return right.mean((1, 2, 3)) > left.mean((1, 2, 3)), bottom.mean((1, 2)) > top.mean((1, 2))

    return images.astype(np.uint8)[..., None], labels, read


def test_an_acgan_learns_its_labels_and_of_shuffled_ones_nothing():
    images, labels, read = two_classes(2_000)
    assert (read(images)[0] == labels).all()
    numbers = {}
    for kind, given in (("right", labels), ("shuffled", np.random.default_rng(1).permutation(labels))):
        model = build((16, 16, 1), classes=2, latent_dim=16, width=8, learning_rate=5e-4)
        model.fit(data.batches(images, 64, 0, 0, 300, given), verbose=0)
        numbers[kind] = acgan.test.label_numbers(model.generator, 2, read, ["height"], 0, count=500)
    assert numbers["right"]["asked label read off both of a pair (share)"] > 0.95
    assert numbers["right"]["other attributes changed by the noise (share)"] > 0.3  # not one image a label
    assert 0.4 < numbers["shuffled"]["asked label read (share)"] < 0.6
    assert numbers["shuffled"]["asked label read off both of a pair (share)"] < 0.3


def test_label_numbers_of_a_known_generator():
    """Grey images: 100 more where the label is 1, a tenth of the first noise, and an attribute that is the noise's."""

    class Known:
        input_shape = ((None, 3), (None, 1))

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
    assert numbers["other attributes changed by the noise (share)"] == pytest.approx(0.5, abs=0.06)
    assert numbers["each changed by the noise (share)"] == {
        "dark": numbers["other attributes changed by the noise (share)"]
    }


def test_generate_is_in_inference_mode():
    """An image does not depend on its neighbours in the batch."""
    generator = build().generator
    noise, labels = train.draw_inputs(generator, 5, [0, 0])
    images = train.to_uint8(generator, noise, labels)
    np.testing.assert_array_equal(images[:2], train.to_uint8(generator, noise[:2], labels[:2]))
    drawn = train.generate(generator, 5, 0)
    assert drawn.shape == (5, 32, 32, 1) and drawn.dtype == np.uint8
    np.testing.assert_array_equal(drawn, train.generate(generator, 5, 0))
    assert (drawn != train.generate(generator, 5, 1)).any()


def test_a_generator_that_ignores_its_label_is_told_apart(digits):
    """An untrained generator's digits are read right by chance alone."""
    from common import fid

    numbers = acgan.test.label_numbers(
        build().generator, 10, lambda x: (fid.classifier_labels(x, "mnist"), None), [], 0, count=500
    )
    assert numbers["asked label read (share)"] == pytest.approx(0.1, abs=0.05)
    assert set(numbers) == {
        "asked label read (share)", "asked label read off both of a pair (share)",
        "change by the label (grey levels)", "change by the noise (grey levels)",
    }  # fmt: skip
