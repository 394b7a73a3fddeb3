"""Measures an InfoGAN trained by train.py and draws its figures."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # use this checkout's common/, not an installed one
from common import classifier, evaluation, plots  # before TensorFlow, to silence its messages

# isort: split
import numpy as np
import tensorflow as tf
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import confusion_matrix, normalized_mutual_info_score

from infogan.train import CURVES, RUNS, VALUES, generate, information, sample_inputs, to_uint8

CATEGORIES = np.eye(VALUES)  # one-hot


def report(experiment, networks, images):
    """Draws a grid for each code; measures its bound on the mutual information and what it changes in the image."""
    generator, discriminator = networks["generator"], networks["discriminator"]
    own, labels = bounds(generator, discriminator, experiment.seed), None
    if experiment.row["dataset"].startswith("mnist"):
        own |= digit_numbers(generator, discriminator, images, experiment.seed)
        if generator.input_shape[1][1] == 1:
            shares = own["each code is the digit read (share)"]
            labels = [f"{label}\n{share:.0%}" for label, share in shares.items()]
    elif experiment.row["dataset"] == "celeba":
        names = classifier.readable_attributes()
        columns = [images.names.index(name) for name in names]
        own |= attribute_numbers(
            generator, lambda x: classifier.read_labels(x, "celeba")[:, columns], names, experiment.seed
        )
    for name, i in each_code(generator):
        draw_grid(experiment, generator, name, i, labels)
    return own


def bounds(generator, discriminator, seed, count=2_000):
    """Returns L_I of each code in nats over `count` images, a function of `seed`; networks in inference mode."""
    noise, *codes = sample_inputs(generator, count, [seed, -4])
    pictures = to_uint8(generator, [noise, *codes])
    found = {}
    for kind, values in zip(("categorical", "continuous"), information(codes, read_codes(discriminator, pictures))):
        at_most = f", of at most {np.log(VALUES):.4f}" if kind == "categorical" else ""
        found |= {f"bound, {kind} {i + 1} (nats{at_most})": float(value) for i, value in enumerate(values)}
    return found


def read_codes(discriminator, images):
    """Returns Q(c|x) for uint8 images (n, H, W, C) as `information` expects it, in inference mode."""
    return discriminator.predict(images / np.float32(127.5) - 1, batch_size=500, verbose=0)[1:]


def digit_numbers(generator, discriminator, images, seed, count=10_000):
    """Measures how well the first categorical code matches the digit, and the continuous codes its shape.

    A generated image's digit is what the classifier reads, a real image's digit is its label. Q classifies the real
    test images, with its codes matched to digits on the dev images: the paper's 5% error (section 7.2).
    """
    inputs = sample_inputs(generator, count, [seed, -5])
    pictures = to_uint8(generator, inputs)
    codes, digits = inputs[1].numpy()[:, 0].argmax(1), classifier.read_labels(pictures, "mnist")
    matched = match(codes, digits)
    share = (matched[codes] == digits).astype(float)
    counts = confusion_matrix(codes, digits, labels=range(VALUES), normalize="true")

    dev, test = (read_codes(discriminator, part.images)[0][:, 0].argmax(1) for part in (images.dev, images.test))
    found = {
        "code is the digit read (share)": float(share.mean()),
        "each code is the digit read (share)": {
            f"{code}: {digit}": float(share[codes == code].mean()) for code, digit in enumerate(matched)
        },
        "digits 0 to 9 read of each code (shares)": {
            str(code): row.round(4).tolist() for code, row in enumerate(counts)
        },
        "code and digit read, normalised MI": float(normalized_mutual_info_score(codes, digits)),
        "Q tells real test images' digits (share)": float(
            (match(dev, images.dev.labels)[test] == images.test.labels).mean()
        ),
    }
    shapes = {"slant": slant(pictures), "stroke width": stroke_width(pictures)}
    for i, values in enumerate(inputs[2].numpy().T if len(inputs) > 2 else []):
        for name, shape in shapes.items():
            found[f"continuous {i + 1}, correlation with {name}"] = correlation(values, shape, digits)
    return found


def match(codes, digits):
    """Returns each code's digit, (10,): the one-to-one matching with which `codes` (n,) best predict `digits` (n,)."""
    counts = confusion_matrix(codes, digits, labels=range(VALUES))
    return linear_sum_assignment(counts, maximize=True)[1]


def correlation(values, shape, digits):
    """Returns Pearson's r of `values` (n,) and `shape` (n,), each minus its mean over the images of the same digit."""
    centred = np.stack([values, shape]).astype(float)
    for digit in np.unique(digits):
        centred[:, digits == digit] -= centred[:, digits == digit].mean(1, keepdims=True)
    return float(np.corrcoef(centred)[0, 1])


def slant(images):
    """Returns how far each digit leans to the right, (n,), as the tangent of the angle, from its second moments."""
    ink = images[..., 0] / (images.sum((1, 2, 3))[:, None, None] + 1e-9)
    y, x = np.mgrid[: images.shape[1], : images.shape[2]]
    dy = (ink * y).sum((1, 2))[:, None, None] - y  # upwards
    dx = x - (ink * x).sum((1, 2))[:, None, None]
    return (ink * dx * dy).sum((1, 2)) / ((ink * dy**2).sum((1, 2)) + 1e-9)


def stroke_width(images):
    """Returns each digit's stroke width in pixels, (n,): twice its area over its outline's length (total variation)."""
    ink = images[..., 0] / 255.0
    across, down = ink[:, :-1, 1:] - ink[:, :-1, :-1], ink[:, 1:, :-1] - ink[:, :-1, :-1]
    return 2 * ink.sum((1, 2)) / (np.hypot(across, down).sum((1, 2)) + 1e-9)


def attribute_numbers(generator, read, names, seed, count=200):
    """Finds the attribute that changes most over each code's values, with everything else fixed.

    An attribute's change is the largest minus the smallest share, over the values, of `count` images that have it
    according to `read`. (Images that lose it and as many that gain it cancel out.) The change by chance is the largest
    of any attribute if each image's values are shuffled: the 95% quantile of 100 shuffles. Continuous codes take ten
    values from -1 to 1.

    Args:
        read: a function from uint8 images (n, H, W, C) to attributes (n, k), 0 or 1, named by `names`.
    """
    rng, found = np.random.default_rng(seed), {}
    inputs = sample_inputs(generator, count, [seed, -6])
    for name, i in each_code(generator):
        values = CATEGORIES if name == "categorical" else np.linspace(-1, 1, 10)
        seen = np.stack([read(to_uint8(generator, changed)) for changed in sweep(generator, inputs, name, i, values)])
        changes = np.ptp(seen.mean(1), axis=0)
        orders = [rng.random(seen.shape[:2]).argsort(0)[..., None] for _ in range(100)]
        shuffled = [np.ptp(np.take_along_axis(seen, order, 0).mean(1), axis=0).max() for order in orders]
        chance = np.quantile(shuffled, 0.95)
        code = f"{name} {i + 1}"
        found[f"{code} changes most"] = names[changes.argmax()] if changes.max() > chance else "nothing"
        found[f"{code}: change (share)"] = float(changes.max())
        found[f"{code}: change by chance (share)"] = float(chance)
        found[f"{code}: each attribute's change (share)"] = dict(zip(names, changes.tolist()))
    return found


def each_code(generator):
    """Returns, for each code, the name of its input, "categorical" or "continuous", and its index there."""
    return [(tensor.name, i) for tensor in generator.inputs[1:] for i in range(tensor.shape[1])]


def sweep(generator, inputs, name, i, values):
    """Yields `inputs` once per value, with code `i` of the input `name` set to that value."""
    at = [tensor.name for tensor in generator.inputs].index(name)
    for value in values:
        changed = inputs[at].numpy().copy()
        changed[:, i] = value
        yield [*inputs[:at], tf.constant(changed), *inputs[at + 1 :]]


def draw_grid(experiment, generator, name, i, labels):
    """Draws <name>_<i + 1>.png, with a column per value of the code and a row per noise vector and its other codes.

    `labels` are those of the only code's ten categories, or None. If given, a continuous code has a row per category.
    """
    count = 10 if labels or generator.input_shape[1][1] == 5 else 4  # as many rows as in C
    inputs = sample_inputs(generator, count, [experiment.seed, -3])
    rows = [f"noise {row + 1}" for row in range(len(inputs[0]))]
    categories = labels or [str(value) for value in range(VALUES)]
    title = f"{experiment.title}: {name} code {i + 1}, a column per value"
    if labels and name == "continuous":
        title += "; a row and a noise vector per category"
    if labels:
        title += "\n(category: the digit matched to it, how often it is read)"
    values, columns = CATEGORIES, categories
    if name == "continuous":
        values = np.linspace(-2, 2, 9)  # the paper's range; in training it is -1 to 1
        columns = [f"{value:g}" for value in values]
        if labels:
            inputs[1] = tf.constant(CATEGORIES[:, None], tf.float32)
            rows = categories
    drawn = [to_uint8(generator, changed) for changed in sweep(generator, inputs, name, i, values)]
    plots.pairs(dict(zip(rows, np.stack(drawn, 1))), experiment.folder / f"{name}_{i + 1}.png", title, columns)


if __name__ == "__main__":
    evaluation.test(RUNS, ("generator", "discriminator"), generate, CURVES, report)
