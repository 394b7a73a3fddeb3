"""How good generated images are: Fréchet distance, KID, precision and recall.

Two extractors of features, never mixed, both named wherever a number is shown: "classifier", a small network
of this project for each dataset (`python -m common.fid mnist` trains it anew), and "Inception", TF-GAN's.
"""

import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers

WEIGHTS = Path(__file__).parent / "weights"


def build_classifier(image_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """Images uint8 (batch, *image_shape), 32x32, to logits (batch, classes).

    The layer named "features" gives the (batch, 128) features of the metrics.
    """
    network = [keras.Input(image_shape, name="images"), layers.Rescaling(1 / 127.5, -1.0)]
    network += [layers.RandomTranslation(0.07, 0.07, fill_mode="nearest"), layers.RandomRotation(0.02)]
    for channels, size, strides in ((32, 5, 2), (64, 3, 2), (64, 3, 1)):  # 16x16, 8x8, 8x8
        network += [
            layers.Conv2D(channels, size, strides, "same", use_bias=False),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
        ]
    network += [layers.MaxPooling2D(), layers.Flatten(), layers.Dropout(0.4)]  # 4x4
    network += [layers.Dense(128, activation="relu", name="features"), layers.Dropout(0.4)]
    network += [layers.Dense(classes, name="logits")]
    return keras.Sequential(network, name="classifier")


def train_classifier(name: str, epochs: int = 14) -> None:
    """Trains the classifier of a dataset on its training images and writes its weights."""
    from common import data

    keras.utils.set_random_seed(0)
    dataset = data.load(name)
    images, labels = dataset.train
    model = build_classifier(images.shape[1:], 1 + int(labels.max()))
    rate = keras.optimizers.schedules.CosineDecay(2e-3, epochs * -(-len(images) // 128))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    model.fit(images, labels, 128, epochs, verbose=2, validation_data=dataset.dev)
    accuracy = model.evaluate(*dataset.test, 500, verbose=0)[1]
    model.save(WEIGHTS / f"{name}.keras")
    print(f"{name}: test accuracy {accuracy:.2%} on {dataset.source}")


if __name__ == "__main__":
    train_classifier(*sys.argv[1:])
