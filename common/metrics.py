"""How good generated images are: Fréchet distance, KID, precision, recall, sharpness, classes, latent path.

Two extractors of features, never mixed, both named wherever a number is shown: "classifier", this project's small
network for the dataset (common/classifier.py), and "Inception", the standard one of TF-GAN. Every function takes images
as uint8 (n, H, W, C), so that no range is ever guessed.
"""

import functools
import os
import sys
import types
from collections.abc import Callable
from importlib import import_module, util
from pathlib import Path

import numpy as np
import tensorflow as tf
from sklearn.metrics import pairwise_distances_chunked
from sklearn.neighbors import NearestNeighbors

from common import classifier
from common.datasets import reachable
from common.files import say


@functools.cache
def _inception():
    """TF-GAN's Inception of TF-Hub; None, and a line that says so, where it can't be had."""
    try:
        if not os.environ.get("TFHUB_CACHE_DIR") and not reachable("https://tfhub.dev"):
            raise OSError("no network, and no TFHUB_CACHE_DIR that holds its weights")
        inception = tfgan("inception_metrics")
        return inception.tfhub.load(inception.INCEPTION_TFHUB)
    except Exception as error:  # of TF-Hub, urllib or TensorFlow; of pkg_resources, which setuptools 82 no longer has
        say(f"*** FID (Inception) is not measured: {(str(error) or type(error).__name__).splitlines()[0]}")
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
        batch = tf.cast(classifier.checked(images)[start : start + 50], tf.float32) / 127.5 - 1.0
        batch = tf.image.resize(batch, [size, size])
        if batch.shape[-1] == 1:
            batch = tf.image.grayscale_to_rgb(batch)
        features.append(tf.reshape(module(batch)[inception.INCEPTION_FINAL_POOL], [len(batch), -1]))
    return tf.concat(features, 0).numpy()


def report_fid(to_images: Callable, training: np.ndarray, seed: int, count: int = 3000) -> float | None:
    """FID as reports A and E measured it: of `count` samples against as many training images, by Inception's features.

    The bias of so few images, more than 2,048 features, is theirs too. None where Inception can't be had.

    Args:
        to_images: a number of images to as many, uint8 (n, H, W, C).
        training: uint8 (n, H, W, C), of which `count` are drawn.
    """
    if _inception() is None:
        return None
    chosen = np.random.default_rng(seed).permutation(len(training))[:count]
    return frechet_distance(inception_features(training[chosen]), inception_features(to_images(count)))


@functools.cache
def _say(line: str) -> None:
    """Says a line, the first time it is asked to."""
    say(f"*** {line}")


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


def precision_recall(real: np.ndarray, generated: np.ndarray, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall of two sets of features (n, d) (Kynkäänniemi et al. 2019, eq. 1 and 2).

    The share of generated features that lie in a ball around some real one, up to its k-th nearest fellow; the same
    with the sets exchanged.
    """
    radii, generated_radii = (
        NearestNeighbors(n_neighbors=k, algorithm="brute").fit(x).kneighbors()[0][:, -1] for x in (real, generated)
    )
    covered = np.zeros(len(real), bool)

    def inside(distances, start):
        """Which generated features of a chunk lie in a real ball; marks the real ones that lie in one of theirs."""
        covered[:] |= (distances <= generated_radii[start : start + len(distances), None]).any(0)
        return (distances <= radii).any(1)

    precise = np.concatenate([*pairwise_distances_chunked(generated, real, reduce_func=inside)])
    return float(precise.mean()), float(covered.mean())


def sharpness(images: np.ndarray) -> float:
    """The variance of the Laplacian (4 neighbours) of the grey image in [0, 1], a mean over the images."""
    x = classifier.checked(images).mean(-1, dtype=np.float32) / 255
    laplacian = x[:, :-2, 1:-1] + x[:, 2:, 1:-1] + x[:, 1:-1, :-2] + x[:, 1:-1, 2:] - 4 * x[:, 1:-1, 1:-1]
    return float(laplacian.var((1, 2)).mean())


def high_frequencies(images: np.ndarray) -> float:
    """The share of the grey image's spectral energy above half the Nyquist frequency: the spectrum's tail.

    The images' means are taken out first, and a Hann window fades their edges, which would else count as sharp ones.
    Of images without contrast it says nothing: then rounding makes the spectrum, or it is 0.
    """
    x = classifier.checked(images).mean(-1, dtype=np.float32)
    x = (x - x.mean((1, 2), keepdims=True)) * np.outer(np.hanning(x.shape[1]), np.hanning(x.shape[2]))
    energy = (np.abs(np.fft.fft2(x)) ** 2).sum(0)
    above = np.hypot(*np.meshgrid(*map(np.fft.fftfreq, energy.shape), indexing="ij")) > 0.25  # cycles a pixel
    return float(energy[above].sum() / max(energy.sum(), 1e-9))


def classes_covered(labels: np.ndarray, reference: np.ndarray) -> int:
    """How many of ten classes are at least a tenth as frequent among `labels` (n,) as among those of `reference`."""
    found, known = (np.bincount(x, minlength=10) / len(x) for x in (labels, reference))
    return int((found >= 0.1 * known).sum())


def latent_path(to_images: Callable, ends: tf.Tensor, real: np.ndarray, name: str) -> dict[str, float]:
    """How smooth the way between two random codes is, and whether it stays on images like the real ones.

    Straight lines between pairs of codes, in eight steps, seen in the classifier's features.

    Args:
        to_images: codes (n, latent_dim) to uint8 images (n, H, W, C).
        ends: the pairs, random codes (2, count, latent_dim).
        real: images that no network was trained on.
        name: of the dataset.

    Returns:
        Means over the lines: the length of a step; that of a line's longest step over that mean, and the whole way
        over the distance of its ends, both 1 where an image turns evenly and straight into another. The FID of the
        lines' midpoints and of their first ends; where there are classes, the classifier's confidence, its highest
        probability, on both.
    """
    _, count, latent_dim = ends.shape
    codes = ends[0, :, None] + tf.linspace(0.0, 1.0, 9)[:, None] * (ends[1] - ends[0])[:, None]
    images = to_images(tf.reshape(codes, [-1, latent_dim]))
    features, logits = classifier.classify(images, name)
    features = features.reshape(count, 9, -1)
    steps = np.linalg.norm(np.diff(features, axis=1), axis=-1)
    ways = np.linalg.norm(features[:, -1] - features[:, 0], axis=-1)
    step, way = (max(float(x.mean()), 1e-9) for x in (steps, ways))  # no 0, should nothing change on the way
    reference = classifier.features(real, name)
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
    points, centres = (classifier.checked(x).reshape(len(x), -1).astype(np.float32) for x in (images[:1000], training))
    distances = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(centres).kneighbors(points)[0]
    return float(np.median(distances) / points.shape[1] ** 0.5)


def measure(sets: dict[str, np.ndarray], real: np.ndarray, training: np.ndarray, name: str) -> dict[str, dict]:
    """All metrics but the latent path, of some sets of images, against `real` ones that no network was trained on.

    Args:
        name: of the dataset, whose classifier is the extractor.
    """
    (reference, real_logits), inception = classifier.classify(real, name), inception_features(real)
    results = {}
    for key, images in sets.items():
        features, logits = classifier.classify(images, name)
        covered = None if name == "celeba" else classes_covered(logits.argmax(1), real_logits.argmax(1))
        kid, error = kernel_distance(reference, features)
        precision, recall = precision_recall(reference, features)
        results[key] = {
            "FID (classifier)": frechet_distance(reference, features),
            "KID (classifier)": kid,
            "KID standard error": error,
            "precision": precision,
            "recall": recall,
            "FID (Inception)": None if inception is None else frechet_distance(inception, inception_features(images)),
            "sharpness": sharpness(images),
            "high frequencies (share of energy)": high_frequencies(images),
            "classes covered": covered,
            "nearest training image (grey levels)": nearest_distance(images, training),
        }
    return results
