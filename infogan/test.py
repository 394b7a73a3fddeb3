"""Measures an InfoGAN that train.py left, and draws its figures."""

from common import fid, plots, run  # before TensorFlow, whose start-up messages it keeps from the terminal

# isort: split
import numpy as np
import tensorflow as tf
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import confusion_matrix, normalized_mutual_info_score

from infogan.train import CURVES, RUNS, VALUES, draw_inputs, generate, information, to_uint8


def report(run, networks, images):
    """A grid for each code; its bound of the mutual information, and what of the picture it changes."""
    generator, discriminator = networks["generator"], networks["discriminator"]
    own = bounds(generator, discriminator, run.seed)
    names = [str(value) for value in range(VALUES)]
    if run.row["dataset"] == "mnist":
        numbers, digits = digit_numbers(generator, discriminator, images, run.seed)
        own |= numbers
        names = [f"{value}: {digit}" for value, digit in enumerate(digits)]
    else:
        read = [images.names.index(name) for name in fid.readable_attributes()]
        own |= attribute_numbers(
            generator, lambda x: fid.classifier_labels(x, "celeba")[:, read], fid.readable_attributes(), run.seed
        )
    for tensor in generator.inputs[1:]:
        for i in range(tensor.shape[1]):
            draw_grid(run, generator, tensor.name, i, names)
    return own


def bounds(generator, discriminator, seed, count=2_000):
    """L_I of each code in nats, of `count` images that are a function of `seed`; networks in inference mode."""
    noise, *codes = draw_inputs(generator, count, [seed, -4])
    pictures = to_uint8(generator, [noise, *codes])
    q = discriminator.predict(pictures / np.float32(127.5) - 1, batch_size=500, verbose=0)[1:]
    found = {}
    for kind, values in zip(("categorical", "continuous"), information(codes, q)):
        at_most = f", of at most {np.log(VALUES):.4f}" if kind == "categorical" else ""
        found |= {f"bound, {kind} {i + 1} (nats{at_most})": float(value) for i, value in enumerate(values)}
    return found


def digit_numbers(generator, discriminator, images, seed, count=10_000):
    """How well the code of ten values is the digit, and what of a digit's shape the continuous ones are.

    The digit of a generated image is what the classifier reads, that of a real one its label. Of the real test images
    Q tells the code, and the digit of a code is matched on the dev images: the paper's 5 % error (section 7.2).

    Returns:
        The numbers, and the digits (10,) that are matched to the generated images' codes.
    """
    inputs = draw_inputs(generator, count, [seed, -5])
    pictures = to_uint8(generator, inputs)
    codes, digits = inputs[1].numpy()[:, 0].argmax(1), fid.classifier_labels(pictures, "mnist")
    matched = match(codes, digits)
    share = (matched[codes] == digits).astype(float)

    def q(part):
        scaled = part.images / np.float32(127.5) - 1
        return discriminator.predict(scaled, batch_size=500, verbose=0)[1][:, 0].argmax(1)

    found = {
        "code is the digit read (share)": float(share.mean()),
        "each code is the digit read (share)": {
            int(digit): float(share[codes == code].mean()) for code, digit in enumerate(matched)
        },
        "code and digit read, normalised information": float(normalized_mutual_info_score(codes, digits)),
        "Q tells real test images' digits (share)": float(
            (match(q(images.dev), images.dev.labels)[q(images.test)] == images.test.labels).mean()
        ),
    }
    for i, values in enumerate(inputs[2].numpy().T if len(inputs) > 2 else []):
        for name, shape in (("slant", slant(pictures)), ("stroke width", stroke_width(pictures))):
            found[f"continuous {i + 1}, correlation with {name}"] = correlation(values, shape, digits)
    return found, matched


def match(codes, digits):
    """The digits (10,) of the codes, one to one, so that `digits` (n,) of `codes` (n,) are right most often."""
    counts = confusion_matrix(codes, digits, labels=range(VALUES))
    return linear_sum_assignment(counts, maximize=True)[1]


def correlation(values, shape, digits):
    """Pearson's r of `values` (n,) and `shape` (n,), whose mean over all images of the same digit is taken off."""
    shape = shape.copy()
    for digit in np.unique(digits):
        shape[digits == digit] -= shape[digits == digit].mean()
    return float(np.corrcoef(values, shape)[0, 1])


def slant(images):
    """How far a digit leans to the right, the tangent of the angle: the shear that its second moments show."""
    ink = images[..., 0] / (images.sum((1, 2, 3))[:, None, None] + 1e-9)
    y, x = np.mgrid[: images.shape[1], : images.shape[2]]
    dy = (ink * y).sum((1, 2))[:, None, None] - y  # upwards
    dx = x - (ink * x).sum((1, 2))[:, None, None]
    return (ink * dx * dy).sum((1, 2)) / ((ink * dy**2).sum((1, 2)) + 1e-9)


def stroke_width(images):
    """Of a digit's strokes, in pixels: twice their area over their outline's length, the total variation."""
    ink = images[..., 0] / 255.0
    across, down = ink[:, :-1, 1:] - ink[:, :-1, :-1], ink[:, 1:, :-1] - ink[:, :-1, :-1]
    return 2 * ink.sum((1, 2)) / (np.hypot(across, down).sum((1, 2)) + 1e-9)


def attribute_numbers(generator, read, names, seed, count=200):
    """Of each code the attribute that changes most as it goes through its values, all else the same.

    An attribute's change is the share of `count` images of which it is read, at the value where it is largest less
    that where it is smallest; the baseline is the same of images whose values were shuffled, the largest of any
    attribute. The values of continuous codes are ten from -1 to 1.

    Args:
        read: uint8 images (n, H, W, C) to attributes (n, k), 0 or 1, of `names`.
    """
    rng, found = np.random.default_rng(seed), {}
    inputs = draw_inputs(generator, count, [seed, -6])
    for tensor in generator.inputs[1:]:
        for i in range(tensor.shape[1]):
            seen = np.concatenate(
                [read(to_uint8(generator, inputs_of)) for inputs_of in sweep(generator, inputs, tensor.name, i, 1, 10)]
            )

            def change(seen):
                shares = seen.reshape(-1, count, len(names)).mean(1)
                return shares.max(0) - shares.min(0)

            changes, code = change(seen), f"{tensor.name} {i + 1}"
            found[f"{code} changes most"] = names[changes.argmax()]
            found[f"{code}, that change (share)"] = float(changes.max())
            found[f"{code}, largest change when shuffled (share)"] = float(change(rng.permutation(seen)).max())
            found[f"{code}, each attribute's change (share)"] = dict(zip(names, changes.tolist()))
    return found


def sweep(generator, inputs, name, i, limit, steps):
    """`inputs` again and again, code `i` of input `name` replaced by each of its values, from -limit to limit."""
    at = [tensor.name for tensor in generator.inputs].index(name)
    values = np.eye(VALUES) if name == "categorical" else np.linspace(-limit, limit, steps)
    for value in values:
        changed = np.array(inputs[at])
        changed[:, i] = value
        yield [*inputs[:at], tf.constant(changed), *inputs[at + 1 :]]


def draw_grid(run, generator, name, i, names):
    """<name>_<i + 1>.png: a row per noise vector, with its own other codes; a column per value of the code."""
    count = 10 if run.row["dataset"] == "mnist" else 5
    inputs = draw_inputs(generator, count, [run.seed, -3])
    if name == "continuous" and run.row["dataset"] == "mnist":  # a row per digit
        inputs[1] = tf.eye(VALUES)[:, None]
    columns = [to_uint8(generator, changed) for changed in sweep(generator, inputs, name, i, 2, 9)]
    rows = {f"noise {number + 1}": np.stack(row) for number, row in enumerate(zip(*columns))}
    what = "a column per value"
    if name == "continuous":
        what, names = "its value below", [f"{value:g}" for value in np.linspace(-2, 2, 9)]
    elif run.row["dataset"] == "mnist":
        what = "a column per value, and the digit matched to it"
    plots.pairs(rows, run.folder / f"{name}_{i + 1}.png", f"{run.title}: {name} code {i + 1}, {what}", names)


if __name__ == "__main__":
    run.test(RUNS, ("generator", "discriminator"), generate, CURVES, report)
