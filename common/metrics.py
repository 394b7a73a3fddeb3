"""How good generated images are: Fréchet distance, KID, precision, recall, sharpness, classes, latent path.

Two feature extractors are used, never mixed, and named wherever a number is shown: "classifier", this project's small
network for the dataset (common/classifier.py), and "Inception", TF-GAN's standard one. Images are uint8 (n, H, W, C)
throughout, so their range is never guessed.
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
    """Returns TF-GAN's Inception from TF-Hub; if it is unavailable, prints a line and returns None."""
    try:
        if not os.environ.get("TFHUB_CACHE_DIR") and not reachable("https://tfhub.dev"):
            raise OSError("can't reach tfhub.dev; set TFHUB_CACHE_DIR to a folder with its weights")
        inception = tfgan("inception_metrics")
        return inception.tfhub.load(inception.INCEPTION_TFHUB)
    except Exception as error:  # from TF-Hub, urllib or TensorFlow; or no pkg_resources, which setuptools 82 dropped
        say(f"*** FID (Inception) is not measured: {(str(error) or type(error).__name__).splitlines()[0]}")
        return None


def inception_features(images: np.ndarray) -> np.ndarray | None:
    """Returns features, float32 (n, 2048), of "pool_3" in TF-GAN's Inception; None if its weights are unavailable.

    The images are resized to 299x299 bilinearly and scaled to [-1, 1], as the module expects.
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
    """Returns the FID as reports A and E measured it: `count` samples against as many training images, with Inception.

    So few images, though more than the 2,048 features, bias it as in the reports. None if Inception is unavailable.

    Args:
        to_images: maps a number n to n generated images, uint8 (n, H, W, C).
        training: uint8 (n, H, W, C), from which `count` are drawn.
    """
    if _inception() is None:
        return None
    chosen = np.random.default_rng(seed).permutation(len(training))[:count]
    return frechet_distance(inception_features(training[chosen]), inception_features(to_images(count)))


@functools.cache
def _say(line: str) -> None:
    """Prints a line, but only the first time."""
    say(f"*** {line}")


def tfgan(module: str):
    """Returns `tensorflow_gan.python.eval.<module>`, imported without the rest of TF-GAN.

    TF-GAN 2.1.0 fails on import with TensorFlow >= 2.16: its `__init__` needs tf.estimator, which was removed
    (github.com/tensorflow/gan issues 55 and 59). Its `eval` does not need it.
    """
    if "tensorflow_gan" not in sys.modules:
        path = Path(util.find_spec("tensorflow_gan").submodule_search_locations[0])
        for name in ("tensorflow_gan", "tensorflow_gan.python", "tensorflow_gan.python.eval"):
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__path__ = [str(path.joinpath(*name.split(".")[1:]))]
    return import_module(f"tensorflow_gan.python.eval.{module}")


def frechet_distance(real: np.ndarray, generated: np.ndarray) -> float:
    """Returns the Fréchet distance of two sets of features (n, d), modelled as Gaussians (Heusel et al. 2017, eq. 6).

    Raises:
        ValueError: A set has fewer than two images, and so no covariance.
    """
    count, features = min(len(real), len(generated)), real.shape[1]
    if count < 2:
        raise ValueError(f"a Fréchet distance needs sets of two images or more, not of {count}")
    if count <= features:
        _say(f"the FID of {count:,} images is biased, too high: they are no more than their {features:,} features")
    metrics = tfgan("classifier_metrics")
    return float(metrics.frechet_classifier_distance_from_activations(tf.constant(real), tf.constant(generated)))


def kernel_distance(real: np.ndarray, generated: np.ndarray) -> tuple[float, float | None]:
    """Returns the KID of two sets of features (n, d) and its standard error (Binkowski et al. 2018, section 4).

    It is the unbiased squared MMD with the kernel (x.y / d + 1)^3, averaged over blocks of at most 1,024 images; for a
    single block, the standard error is None.
    """
    metrics = tfgan("classifier_metrics")
    # The blocks must be random: the halves of MNIST's test set are by different writers.
    shuffled = (tf.constant(np.random.default_rng(0).permutation(features)) for features in (real, generated))
    mean, error = metrics.kernel_classifier_distance_and_std_from_activations(*shuffled, dtype=tf.float64)
    return float(mean), float(error) if np.isfinite(error) else None


def precision_recall(real: np.ndarray, generated: np.ndarray, k: int = 3) -> tuple[float, float]:
    """Returns improved precision and recall of two sets of features (n, d) (Kynkäänniemi et al. 2019, eq. 1 and 2).

    Precision is the share of generated features that lie in the ball around some real feature, up to its k-th nearest
    real neighbour; recall is the same with the sets swapped.
    """
    radii, generated_radii = (
        NearestNeighbors(n_neighbors=k, algorithm="brute").fit(x).kneighbors()[0][:, -1] for x in (real, generated)
    )
    covered = np.zeros(len(real), bool)

    def inside(distances, start):
        """Returns which generated features of a chunk lie in a real ball; marks the real ones that lie in theirs."""
        covered[:] |= (distances <= generated_radii[start : start + len(distances), None]).any(0)
        return (distances <= radii).any(1)

    precise = np.concatenate([*pairwise_distances_chunked(generated, real, reduce_func=inside)])
    return float(precise.mean()), float(covered.mean())


def sharpness(images: np.ndarray) -> float:
    """Returns the variance of the Laplacian (4 neighbours) of the grey image in [0, 1], averaged over the images."""
    x = classifier.checked(images).mean(-1, dtype=np.float32) / 255
    laplacian = x[:, :-2, 1:-1] + x[:, 2:, 1:-1] + x[:, 1:-1, :-2] + x[:, 1:-1, 2:] - 4 * x[:, 1:-1, 1:-1]
    return float(laplacian.var((1, 2)).mean())


def high_frequencies(images: np.ndarray) -> float:
    """Returns the share of the grey images' spectral energy above half the Nyquist frequency: the spectrum's tail.

    Each image's mean is subtracted first, and a Hann window fades out its borders, which would otherwise count as sharp
    edges. For images without contrast it is meaningless: the spectrum is rounding errors, or 0.
    """
    x = classifier.checked(images).mean(-1, dtype=np.float32)
    x = (x - x.mean((1, 2), keepdims=True)) * np.outer(np.hanning(x.shape[1]), np.hanning(x.shape[2]))
    energy = (np.abs(np.fft.fft2(x)) ** 2).sum(0)
    above = np.hypot(*np.meshgrid(*map(np.fft.fftfreq, energy.shape), indexing="ij")) > 0.25  # cycles per pixel
    return float(energy[above].sum() / max(energy.sum(), 1e-9))


def classes_covered(labels: np.ndarray, reference: np.ndarray) -> int:
    """Returns how many of ten classes are at least a tenth as frequent in `labels` (n,) as in `reference` (m,)."""
    found, known = (np.bincount(x, minlength=10) / len(x) for x in (labels, reference))
    return int((found >= 0.1 * known).sum())


def latent_path(to_images: Callable, ends: tf.Tensor, real: np.ndarray, name: str) -> dict[str, float]:
    """Measures how smooth the path between two random codes is, and whether its images stay like the real ones.

    The paths are straight lines between pairs of codes, in eight steps, measured in the classifier's features.

    Args:
        to_images: maps codes (n, latent_dim) to uint8 images (n, H, W, C).
        ends: the pairs of random codes (2, count, latent_dim).
        real: uint8 images that no network was trained on.
        name: the dataset.

    Returns:
        Means over the lines: the length of a step; the longest step, relative to that mean; and the length of the path,
        relative to the distance between its ends. The last two are 1 if an image turns into another evenly and
        straight. Also the FID of the lines' midpoints and of their first ends and, if there are classes, the
        classifier's confidence, its highest probability, on both.
    """
    _, count, latent_dim = ends.shape
    codes = ends[0, :, None] + tf.linspace(0.0, 1.0, 9)[:, None] * (ends[1] - ends[0])[:, None]
    images = to_images(tf.reshape(codes, [-1, latent_dim]))
    features, logits = classifier.classify(images, name)
    features = features.reshape(count, 9, -1)
    steps = np.linalg.norm(np.diff(features, axis=1), axis=-1)
    ways = np.linalg.norm(features[:, -1] - features[:, 0], axis=-1)
    step, way = (max(float(x.mean()), 1e-9) for x in (steps, ways))  # never 0, even if nothing changes along the path
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
    """Returns the distance to the nearest training image in RMS grey levels per pixel, the median of 1,000 `images`."""
    points = classifier.checked(images[:1000]).reshape(len(images[:1000]), -1).astype(np.float32)
    distances = np.full([len(points), 1], np.inf)
    for start in range(0, len(training), 4000):  # all of CelebA in float32 would take 2 GB
        centres = classifier.checked(training[start : start + 4000]).reshape(-1, points.shape[1]).astype(np.float32)
        found = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(centres).kneighbors(points)[0]
        distances = np.minimum(distances, found)
    return float(np.median(distances) / points.shape[1] ** 0.5)


def measure(sets: dict[str, np.ndarray], real: np.ndarray, training: np.ndarray, name: str) -> dict[str, dict]:
    """Returns all metrics but the latent path of sets of images, against `real` ones that no network was trained on.

    Args:
        sets: by name, uint8 images (n, H, W, C).
        real: uint8 images (n, H, W, C).
        training: uint8 images (n, H, W, C), to find the nearest among.
        name: the dataset, whose classifier is the extractor.
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
