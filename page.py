"""`python page.py`: writes RESULTS.md from what results/ holds. run_all.sh calls it at its end.

The page is about this very collection, so rows are named here as nowhere else outside the scripts. Of a run of several
seeds it shows the median, and from the lowest to the highest; what no run has measured is called unmeasured.
"""

from pathlib import Path
from statistics import median

from common import data, results  # before TensorFlow, whose start-up messages it keeps from the terminal

# isort: split

# The reports' figures: of which reports, what they show, and our run and file.
FIGURES = [
    ("A, E", "VAE: training and dev loss, reconstruction, KL", "vae", "mnist_z100", "curves.png"),
    ("A", "VAE: dev images, their reconstructions, samples", "vae", "mnist_z100", "dev_sheet.png"),
    ("A", "VAE: latent interpolation", "vae", "mnist_z100", "interpolation.png"),
    ("A", "VAE: extrapolation", "vae", "mnist_z100", "extrapolation.png"),
    ("A, E", "GAN: losses; D(x), D(G(z)) before and after D's update", "dcgan", "mnist", "curves.png"),
    ("A", "GAN: samples", "dcgan", "mnist", "samples.png"),
    ("A", "GAN: latent interpolation", "dcgan", "mnist", "interpolation.png"),
    ("B", "VAE: learning curves", "vae", "celeba_z128", "curves.png"),
    ("C", "VAE: learning curves", "vae", "celeba_z512", "curves.png"),
    *(
        (report, what, "vae", run, file)
        for what, file in (
            ("VAE: test faces over their reconstructions", "reconstructions.png"),
            ("VAE: samples", "samples.png"),
            ("VAE: t-SNE of the test codes by attribute", "tsne.png"),
        )
        for report, run in (("B", "celeba_z128"), ("C", "celeba_z512"))
    ),
    ("B", "DCGAN: G's and D's loss, D's on real and on fake", "dcgan", "celeba_z128", "curves.png"),
    ("C", "GAN: learning curves", "dcgan", "celeba_z100", "curves.png"),
    ("B", "DCGAN: samples", "dcgan", "celeba_z128", "samples.png"),
    ("C", "GAN: samples", "dcgan", "celeba_z100", "samples.png"),
    ("C", "WGAN-GP: samples", "wgan", "celeba_gp", "samples.png"),
    ("B", "ACGAN: four losses of D", "acgan", "celeba_male", "curves.png"),
    ("B", "ACGAN: ten pairs, female and male", "acgan", "celeba_male", "pairs.png"),
    ("C", "ACGAN: learning curves", "acgan", "celeba_smiling", "curves.png"),
    ("C", "ACGAN: ten pairs, not smiling and smiling", "acgan", "celeba_smiling", "pairs.png"),
    ("C", "InfoGAN: learning curves", "infogan", "celeba_cat10_cont2", "curves.png"),
    ("C", "InfoGAN: five categorical codes, the first", "infogan", "celeba_cat5x10", "categorical_1.png"),
    ("C", "InfoGAN: one categorical code", "infogan", "celeba_cat10_cont2", "categorical_1.png"),
    ("C", "InfoGAN: a continuous code", "infogan", "celeba_cat10_cont2", "continuous_1.png"),
    ("D", "WGAN-DIV: samples as training goes on", "wgan", "cifar10_div", "training.gif"),
    ("D", "WGAN-DIV: samples", "wgan", "cifar10_div", "samples.png"),
    ("D", "beta-VAE: MSE and KL of three betas", "vae", "cifar10_beta2", "compared.png"),
    ("D", "beta-VAE: reconstructions and samples", "vae", "cifar10_beta2", "decoded.png"),
]
UNMEASURED, NOT_TRAINED = "unmeasured", "not trained"


class Results(dict):
    """By (model, run), the metrics.json of its seeds, of the most images and steps there are.

    `left_out` names those that are of fewer, or damaged.
    """

    def __init__(self, folder: Path):
        super().__init__()
        self.folder, self.left_out, found = folder, [], {}
        for path in sorted(folder.glob("*/[!~]*/metrics.json")):
            result, name = results.read(path), f"`{path.parent.relative_to(folder)}`"
            if result is None:
                self.left_out.append(f"{name} (damaged)")
            else:
                found.setdefault((result["model"], result["run"]), []).append((name, result))
        for key, seeds in found.items():
            most = max(map(length, (result for _, result in seeds)))
            self[key] = sorted((r for _, r in seeds if length(r) == most), key=lambda result: result["seed"])
            self.left_out += [f"{name} (of fewer images or steps)" for name, r in seeds if length(r) != most]

    def numbers(self, model, run, key):
        """Of each seed that has it."""
        found = [(result["metrics"] | result["own"]).get(key) for result in self.get((model, run), [])]
        return [value for value in found if value is not None]

    def cell(self, model, run, key, form):
        """Empty where no run of the model has the number."""
        if (model, run) not in self:
            return NOT_TRAINED
        numbers, seeds = self.numbers(model, run, key), len(self[model, run])
        if numbers:
            return spread(numbers, form) + f", {len(numbers)} of {seeds} seeds" * (len(numbers) < seeds)
        return UNMEASURED if any(self.numbers(*row, key) for row in self if row[0] == model) else ""

    def lines(self, rows, keys):
        """A table's lines of (model, run), cells by `keys` and their formats."""
        return [[name(row), *(self.cell(*row, key, form) for key, form in keys.items())] for row in rows]

    def medians(self, model, run, *keys):
        """None if one of them is unmeasured."""
        found = [self.numbers(model, run, key) for key in keys]
        return [median(numbers) for numbers in found] if all(found) else None

    def source(self, row):
        """What the images are called."""
        return self[row][0]["dataset"]

    def steps(self, row):
        """Done, and of how many where it has not ended."""
        one = self[row][0]
        measured = one.get("step measured", one["steps"])
        return results.progress(one) + f", measured: {measured:,}" * (measured < one["steps"])

    def compared(self, rows, *keys):
        """The medians of each row; or None, and why they can't be compared."""
        if not all(row in self for row in rows):
            return None, UNMEASURED
        shares = [self[row][0]["steps"] / self[row][0]["steps_planned"] for row in rows]
        if len({self.source(row) for row in rows}) > 1 or max(shares) > 1.02 * min(shares):
            return None, "not compared, as the runs are of different images, or of different shares of their steps"
        measured = [self.medians(*row, *keys) for row in rows]
        return (measured, "") if all(measured) else (None, UNMEASURED)

    def real(self, rows, keys):
        """Of the real dev images each number that a run has, else None."""
        numbers = [result["real dev images"] for row in rows for result in self.get(row, [])]
        return {key: next((n[key] for n in numbers if n.get(key) is not None), None) for key in keys}

    def file(self, model, run, name):
        """The path of a picture that is there, of seed 0."""
        seed_0 = any(not result["seed"] for result in self.get((model, run), []))
        there = seed_0 and (self.folder / model / run / name).is_file()
        return f"results/{model}/{run}/{name}" if there else None

    def pictures(self, pictures):
        """A table of those that are there, each under its name."""
        shown = [picture for picture in pictures if self.file(*picture)]
        titles = [
            f"{name(row)}{', seed 0' * (len(self[row]) > 1)}: {file}" for *row, file in shown for row in [(*row,)]
        ]
        return (
            table(titles, [[f'<img src="{self.file(*each)}" width="400">' for each in shown]], "---") if shown else ""
        )


def length(result):
    """Of a run, to be compared with that of its other seeds."""
    return result["images"].get("training", 0), result["dataset"], result["steps"]


def name(row):
    return "`{}` `{}`".format(*row)


def spread(numbers, form):
    text = f"{median(numbers):{form}}"
    return text + (f" ({min(numbers):{form}} to {max(numbers):{form}})" if len(numbers) > 1 else "")


def real_line(name, real, keys):
    """A table's line of the real images' numbers."""
    return [name, *(UNMEASURED if real[key] is None else f"{real[key]:{form}}" for key, form in keys.items())]


def listed(words):
    """As in: one, two and three."""
    *others, last = map(str, words)
    return " and ".join(filter(None, [", ".join(others), last]))


def extreme(values, pick):
    """Which of the named `values` are the lowest or the highest (`pick` is min or max), to 3 %."""
    best = pick(values.values())
    return [name for name, value in values.items() if abs(value - best) <= 0.03 * abs(best)]


def table(columns, lines, align="---:"):
    rule = ["---", *[align] * (len(columns) - 1)]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in (columns, rule, *lines))


def command(model, run, file="test.py"):
    return f"`python {model}/{file} {run}`"


def overview(found):
    """The table over all runs."""
    columns = ["run", "images: training, dev, test", "steps", "seeds", "FID (Inception)", "FID (classifier)"]
    columns += [
        "KID (classifier)",
        "precision",
        "recall",
        "its own number",
        "the reports' (extractor not stated)",
    ]
    lines = []
    for (model, run), seeds in sorted(found.items(), key=lambda item: ("MNIST" not in item[1][0]["dataset"], item[0])):
        one = seeds[0]
        counts = ", ".join(f"{one['images'].get(part, 0):,}" for part in ("training", "dev", "test"))
        cells = [found.cell(model, run, key, form) or UNMEASURED for key, form in (
            ("FID (Inception)", ".2f"), ("FID (classifier)", ".2f"), ("KID (classifier)", ".2f"), ("precision", ".3f"),
            ("recall", ".3f"))]  # fmt: skip
        own = [f"{name} {found.cell(model, run, key, form)}" for key, (name, form) in results.OWN.items()
               if found.numbers(model, run, key)]  # fmt: skip
        said = [f"{report}: {k} {v}" for report, figures in one["reported"].items() for k, v in figures.items()]
        numbers = ", ".join(str(result["seed"]) for result in seeds)
        lines.append([name((model, run)), f"{one['dataset']}: {counts}", found.steps((model, run)), numbers, *cells])
        lines[-1] += [", ".join(own), ", ".join(said)]
    return table(columns, lines)


def figures(found):
    """The map of the reports' figures, and those that are here."""
    lines = []
    for reports, what, model, run, file in FIGURES:
        path = found.file(model, run, file)
        where = f"[{file}]({path})" if path else "not kept" if (model, run) in found else NOT_TRAINED
        lines.append([reports, what, command(model, run), where])
    return table(["reports", "figure", "command, after its `train.py`", "file"], lines, "---")


def latent_dimensions(found):
    """How does the latent dimension change a VAE?"""
    rows = {size: ("vae", f"mnist_z{size}") for size in (3, 10, 64, 100)}
    keys = {"FID (classifier)": ".1f", "dev ELBO (nats)": ".2f", "dev reconstruction (nats)": ".2f",
            "dev KL (nats)": ".2f", "active units": "g"}  # fmt: skip
    measured, said = found.compared(rows.values(), *keys)
    if measured:
        fid, elbo, error, kl, units = (dict(zip(rows, values)) for values in zip(*measured))
        best = extreme(fid, min)
        said = (
            f"The FID is lowest with {listed(best)} dimensions (A's and E's are with 100: this "
            f"{'agrees' if 100 in best else 'differs'}), the dev ELBO highest with {listed(extreme(elbo, max))}. "
            f"Reconstruction is best with {listed(extreme(error, min))} and worst with "
            f"{listed(extreme(error, max))}, the KL highest with {listed(extreme(kl, max))} and lowest with "
            f"{listed(extreme(kl, min))}; what is within 3 % of the best counts as it. With 3 the KL is {kl[3]:.1f} "
            f"nats (A saw it fall to about 0: this {'agrees' if kl[3] < 0.5 else 'differs'}). Of 64 units "
            f"{units[64]:g} are active, of 100 {units[100]:g}."
        )
    return found.lines(rows.values(), keys), keys, said, [(*row, "samples.png") for row in rows.values()]


def equilibrium(found):
    """Did the GAN reach its equilibrium?"""
    keys = {"last tenth: d_real": ".3f", "last tenth: d_fake_before": ".3f", "last tenth: d_fake_after": ".3f",
            "fresh discriminator: told right (share)": ".1%"}  # fmt: skip
    rows = [("dcgan", run) for run in ("mnist", "mnist_bias", "celeba_z100", "celeba_z128")]
    said = UNMEASURED
    if measured := found.medians(*rows[0], *keys):
        real, before, after, fresh = measured
        reached = all(abs(share - 0.5) < 0.05 for share in (real, before, fresh))
        said = (
            f"On {found.source(rows[0])} {'yes' if reached else 'no'}: over the last tenth of the run D(x) is "
            f"{real - 0.5:+.2f} and "
            f"D(G(z)) {before - 0.5:+.2f} from one half, and D's own update moves D(G(z)) by {after - before:+.2f} "
            f"within a step. A discriminator trained anew against the generator, which stands still, tells {fresh:.0%} "
            f"of new images right. (D(x), D(G(z)) and this share within 0.05 of one half would be a yes. A: not "
            f"reached, which this {'differs from' if reached else 'agrees with'}, but D(x) was near 0.6 there and "
            "D(G(z)) near 0.5 just after G's update. C claims it for faces after 25,000 updates.)"
        )
    return found.lines(rows, keys), keys, said, [(*rows[0], "curves.png")]


def blur(found):
    """VAE or GAN, which is blurrier?"""
    keys = {"sharpness": ".4f", "high frequencies (share of energy)": ".4f"}
    rows = [("vae", "mnist_z100"), ("dcgan", "mnist"), ("vae", "celeba_z512"), ("dcgan", "celeba_z100")]
    lines = found.lines(rows, keys)
    for row in (rows[0], rows[2]):
        if row in found:
            lines.append(real_line(f"real dev images, {found.source(row)}", found.real([row], keys), keys))
    pair, said = found.compared(rows[:2], *keys)
    if pair:
        (vae, vae_tail), (gan, gan_tail) = pair
        blurrier = "VAE" if vae < gan else "GAN", "VAE" if vae_tail < gan_tail else "GAN"
        said = (
            f"On {found.source(rows[0])} the {blurrier[0]} by the variance of the Laplacian ({vae:.3f} for the VAE, "
            f"{gan:.3f} for the "
            f"GAN), {'and' if blurrier[0] == blurrier[1] else 'but'} the {blurrier[1]} by the spectrum's tail "
            f"({vae_tail:.2%} of the energy and {gan_tail:.2%}). (A found the VAE blurrier: this "
            f"{'agrees' if blurrier == ('VAE', 'VAE') else 'differs'}.)"
        )
    said += f" {name(rows[2])} and {name(rows[3])}: {found.compared(rows[2:], *keys)[1] or 'see the table'}."
    return lines, keys, said, [(*row, "samples.png") for row in rows]


def smoothness(found):
    """Which latent space is smoother, and stays on digits?"""
    keys = {
        f"latent path: {key}": form
        for key, form in (
            ("a step of eight (feature distance)", ".2f"), ("longest step (of the mean step)", ".2f"),
            ("length (of its ends' distance)", ".2f"), ("FID of its ends (classifier)", ".1f"),
            ("FID of its midpoints (classifier)", ".1f"), ("confidence at its ends", ".3f"),
            ("confidence at its midpoints", ".3f"),
        )
    }  # fmt: skip
    rows = [("vae", "mnist_z100"), ("dcgan", "mnist"), ("vae", "mnist_z3"), ("vae", "mnist_z10"), ("wgan", "mnist")]
    pair, said = found.compared(rows[:2], *keys)
    if pair:
        _, longest, way, *_ = zip(*pair)  # each VAE's, GAN's
        rise, change = (
            [median(b - a for a, b in zip(*(found.numbers(*row, key) for key in both))) for row in rows[:2]]
            for both in ([*keys][3:5], [*keys][5:])  # at the ends and halfway, of each seed
        )
        smoother = longest[0] < longest[1] and way[0] < way[1]
        said = (
            "On the way from one code to another, of 100 dimensions, the VAE's pictures go "
            f"{way[0]:.2f} times as far as straight on, in the classifier's features, the GAN's {way[1]:.2f} times; "
            f"the longest of eight steps is {longest[0]:.2f} and {longest[1]:.2f} times the mean one. Halfway the "
            f"classifier's confidence has changed by {change[0]:+.3f} with the VAE, by {change[1]:+.3f} with the GAN. "
            "(A: the VAE's space is smoother and "
            f"stays on digits, the GAN's does not. By the paths this {'agrees' if smoother else 'differs'}, by the "
            f"confidence, which leaves digits where it falls by 0.02 or more, it "
            f"{'agrees' if change[0] > -0.02 >= change[1] else 'differs'}.) Halfway the FID changes by {rise[0]:+.1f} "
            f"and {rise[1]:+.1f}: not the decoder's doing alone, as codes there are shorter than codes of N(0, I)."
        )
        if small := found.medians(*rows[2], "latent path: length (of its ends' distance)"):
            said += f" With 3 dimensions the VAE's pictures go {small[0]:.2f} times as far as straight on."
    return found.lines(rows, keys), keys, said, [(*row, "interpolation.png") for row in rows[:2]]


def collapse(found):
    """Do modes collapse, and are images learnt by heart?"""
    keys = {"classes covered": "g", "recall": ".3f", "nearest training image (grey levels)": ".1f"}
    rows = [row for row in sorted(found) if "MNIST" in found[row][0]["dataset"]]
    most = max((found[row][0]["images"].get("training", 0) for row in rows), default=0)
    rows = [row for row in rows if found[row][0]["images"].get("training", 0) == most]  # of the same images
    lines, real = found.lines(rows, keys), found.real(rows, [*keys, "sharpness"])
    if rows:
        lines.append(real_line(f"real dev images, {found.source(rows[0])}", real, keys))
    classes, recall, nearest, sharpness = (
        {" ".join(row): pick(numbers) for row in rows if (numbers := found.numbers(*row, key))}
        for key, pick in zip(real, (min, median, median, median))
    )
    said = UNMEASURED
    if classes and recall and nearest and None not in real.values():
        fewer = [f"`{name}` ({count:g})" for name, count in classes.items() if count < 10]
        drawn = f"fewer than ten classes are in {listed(fewer)}" if fewer else "all draw all ten classes"
        least = min(recall, key=recall.get)
        near = [f"`{name}` ({value:.1f}, sharpness {sharpness[name]:.3f})" for name, value in nearest.items()
                if value < real["nearest training image (grey levels)"]]  # fmt: skip
        said = (
            f"Of {len(classes)} runs whose classes are counted {drawn}. The least varied is `{least}`, recall "
            f"{recall[least]:.3f} where real dev images have {real['recall']:.3f}. Nearer to the training images than "
            f"real dev images, which are {real['nearest training image (grey levels)']:.1f} grey levels a pixel away, "
            f"{'is none' if not near else 'are those of ' + listed(near)}: what is learnt by heart would be, and what "
            f"is blurred (real images have a sharpness of {real['sharpness']:.3f}). (A saw the GAN's 1s look like 7s, "
            "which a count of the classes does not show.)"
        )
    return lines, keys, said, [(*row, "samples.png") for row in (("dcgan", "mnist"), ("wgan", "mnist"))]


def bias(found):
    """Does a bias in the generator's transposed convolutions do harm?"""
    keys = {"FID (classifier)": ".1f", "KID (classifier)": ".2f", "precision": ".3f", "recall": ".3f"}
    rows = [("dcgan", "mnist"), ("dcgan", "mnist_bias")]
    measured, said = found.compared(rows, "FID (classifier)")
    if measured:
        plain, biased = (found.numbers(*row, "FID (classifier)") for row in rows)
        harm = median(biased) / median(plain)
        than_seeds = "how much seeds differ without one is unmeasured"
        if len(plain) > 1:
            within = abs(median(biased) - median(plain)) <= max(plain) - min(plain)
            than_seeds = f"{'no ' * within}more than seeds differ without one"
        said = (
            f"With a bias the FID is {spread(biased, '.1f')}, without {spread(plain, '.1f')}: {harm:.2f} times as "
            f"much, {than_seeds}. (A: above 80 and 57.07, at least 1.4 times as much: this "
            f"{'agrees' if harm >= 1.4 else 'differs by being less' if harm > 1 else 'differs'}.)"
        )
    return found.lines(rows, keys), keys, said, [(*rows[1], "samples.png")]


def separation(found):
    """Do a VAE's codes of faces tell their attributes apart?"""
    lines, said = [], []
    for row in (("vae", "celeba_z512"), ("vae", "celeba_z128")):
        own, told = found[row][0]["own"] if row in found else {}, []
        attributes = [key[len("linear probe, ") : -len(" (accuracy)")] for key in own if "linear probe, " in key]
        for attribute in attributes:
            right, chance = found.medians(*row, *(f"{k}, {attribute} (accuracy)" for k in ("linear probe", "chance")))
            lines.append([f"{name(row)}: {attribute}", f"{right:.1%}", f"{chance:.1%}"])
            told += [attribute] if right > chance + 0.1 else []
        if attributes:
            said += [f"A linear probe of the codes of {name(row)} (steps: {found.steps(row)}) reads "
                     f"{listed(told) if told else 'none'} of {len(attributes)} attributes right by ten points more "
                     "than chance would."]  # fmt: skip
        else:
            lines.append([name(row), *[UNMEASURED if row in found else NOT_TRAINED] * 2])
    said = " ".join([*said, "(By t-SNE B saw no clear separation by sex, C some trend.)"]) if said else UNMEASURED
    return lines, ("linear probe (accuracy)", "chance (accuracy)"), said, [("vae", "celeba_z512", "tsne.png")]


def codes(found):
    """Is a label or a code really read from the image?"""
    keys = {"asked label read (share)": ".1%", "label read off real dev images (share)": ".1%",
            "code is the digit read (share)": ".1%", "Q tells real test images' digits (share)": ".1%"}  # fmt: skip
    rows = [("acgan", "mnist"), ("acgan", "celeba_smiling"), ("acgan", "celeba_male"), ("infogan", "mnist")]
    said = []
    for row in rows[:3]:
        if measured := found.medians(*row, *list(keys)[:2]):
            said += [f"Off {measured[0]:.1%} of the images of `{' '.join(row)}` a classifier reads the label that was "
                     f"asked for; off real ones it reads {measured[1]:.1%} right."]  # fmt: skip
    if measured := found.medians(*rows[3], *list(keys)[2:]):
        said += [f"InfoGAN's category, which no one gave a meaning, is the digit in {measured[0]:.1%} of its images, "
                 f"and its Q tells {measured[1]:.1%} of the real test digits."]  # fmt: skip
    faces = "infogan", "celeba_cat10_cont2"
    if faces in found:
        own = found[faces][0]["own"]
        changed = [
            f"{code} changes {own[key]} most, the share of images read so by {own[f'{code}: change (share)']:.0%} (by "
            f"chance {own[f'{code}: change by chance (share)']:.0%})"
            if own[key] != "nothing"
            else f"{code} changes nothing beyond chance"
            for key in own if (code := key.removesuffix(" changes most")) != key
        ]  # fmt: skip
        said += [f"Of {name(faces)} (steps: {found.steps(faces)}) {listed(changed)}."] if changed else []
    pictures = [(*rows[0], "pairs.png"), (*rows[3], "categorical_1.png"), (*rows[1], "pairs.png")]
    pictures += [(*faces, "continuous_1.png")]
    return found.lines(rows, keys), keys, " ".join(said) or UNMEASURED, pictures


def side_by_side(found):
    """WGAN-DIV or WGAN-GP; beta 2, 4 or 6; one update of G or two?"""
    keys = {"FID (classifier)": ".2f", "KID (classifier)": ".3f", "recall": ".3f", "sharpness": ".4f",
            "test MSE": ".4f", "test KL (nats)": ".2f"}  # fmt: skip
    wgans, betas = (
        [(model, f"cifar10_{name}") for name in names]
        for model, names in (("wgan", ("div", "gp")), ("vae", ("beta2", "beta4", "beta6")))
    )
    dcgans = [("dcgan", "celeba_z100"), ("dcgan", "celeba_z128")]
    lines, said = found.lines([*wgans, *betas, *dcgans], keys), []
    measured, why = found.compared(wgans, "FID (classifier)")
    if measured:
        (div,), (gp,) = measured
        said += [f"After {listed(found.steps(row) for row in wgans)} steps the FID is {div:.2f} with WGAN-DIV and "
                 f"{gp:.2f} with WGAN-GP"]  # fmt: skip
        by_step = [found[row][0].get("FID by step", {}) for row in wgans]
        if both := {*by_step[0]} & {*by_step[1]}:
            last = max(both, key=int)
            said[-1] += f"; against the dev images, both at step {int(last):,}, " + listed(
                f"{values[last]:.2f}" for values in by_step
            )
        said[-1] += "."
    else:
        said += [f"WGAN-DIV and WGAN-GP: {why}."]
    measured, why = found.compared(betas, "test MSE", "test KL (nats)")
    if measured:
        mse, kl = zip(*measured)
        as_d = list(mse) == sorted(mse) and list(kl) == sorted(kl, reverse=True)
        mse, kl = (", ".join(f"{value:{form}}" for value in values) for values, form in ((mse, ".4f"), (kl, ".2f")))
        said += [f"After {found.steps(betas[0])} steps with beta 2, 4, 6 the test MSE is {mse} and the KL {kl} nats: "
                 f"{'' if as_d else 'not '}as D saw."]  # fmt: skip
    else:
        said += [f"Beta 2, 4, 6: {why}."]
    measured, why = found.compared(dcgans, "FID (classifier)")
    if measured:
        said += [f"C's DCGAN, of two updates of G a step, has an FID of {measured[0][0]:.2f}, B's, of one and of other "
                 f"widths, {measured[1][0]:.2f}."]  # fmt: skip
    else:
        said += [f"Two updates of G a step (C's `dcgan` `celeba_z100`) and one (B's `celeba_z128`): {why}."]
    pictures = [(*row, "fid_by_step.png") for row in wgans] + [(*betas[0], "compared.png")]
    return lines, keys, " ".join(said), [*pictures, *((*row, "curves.png") for row in dcgans)]


# Each gives its table's lines, their keys and formats, its answer and its pictures; its docstring is the heading.
QUESTIONS = latent_dimensions, equilibrium, bias, blur, smoothness, collapse, separation, codes, side_by_side


def text(found, title="Results"):
    """The page."""
    parts = [
        f"# {title}", "Written by `python page.py` from `results/`, never by hand; `./run_all.sh` trains and tests "
        "every row whose data is there, to its end, with seed 0, `SEED=1 ./run_all.sh` with another. FID and KID "
        "(classifier) are by TF-GAN's functions on the 128 features of the dataset's classifier in `common/weights/`, "
        "FID (Inception) on TF-GAN's Inception; README.md says how each number is made. Of several "
        "seeds: the median (lowest to highest); of one, how much seeds differ is unmeasured. "
        "Unmeasured is what a run's `test.py` could not measure, or an earlier one did not.",
        "## All runs", overview(found),
        "## The reports' figures",
        "Faces and CIFAR-10's images may not be published here: the command makes the figures that show them, but "
        "they are not kept.",
        figures(found),
        "## The reports' questions",
    ]  # fmt: skip
    for question in QUESTIONS:
        lines, keys, said, pictures = question(found)
        parts += [f"### {question.__doc__}", table(["run", *keys], lines), said]
        parts += [found.pictures(pictures)]
    if found.left_out:
        parts += [f"Left out: {', '.join(found.left_out)}."]
    return "\n\n".join(filter(None, parts)) + "\n"


def write(folder: Path, title: str = "Results") -> None:
    """Writes RESULTS.md in `folder`, from its results/."""
    folder.mkdir(parents=True, exist_ok=True)
    with data.whole(folder / "RESULTS.md") as draft:
        draft.write_text(text(Results(folder / "results"), title))


if __name__ == "__main__":
    write(data.ROOT)
    print(f"wrote {data.ROOT / 'RESULTS.md'}")
