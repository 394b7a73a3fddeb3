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
UNMEASURED = "unmeasured"


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
        numbers = self.numbers(model, run, key)
        return spread(numbers, form) if numbers else UNMEASURED

    def lines(self, rows, keys):
        """A table's lines of (model, run), cells by `keys` and their formats; a "test ..." is a VAE's alone."""
        return [
            [f"`{model}` `{run}`"]
            + ["" if key[:5] == "test " and model != "vae" else self.cell(model, run, key, keys[key]) for key in keys]
            for model, run in rows
        ]

    def medians(self, model, run, *keys):
        """None if one of them is unmeasured."""
        found = [self.numbers(model, run, key) for key in keys]
        return [median(numbers) for numbers in found] if all(found) else None

    def source(self, row):
        """What the images are called."""
        return self[row][0]["dataset"]

    def alike(self, *rows):
        """Whether the runs are all there, of the same images and the same share of their steps, to 2 %."""
        if not all(row in self for row in rows):
            return False
        sources, shares = zip(*((self[row][0]["dataset"], self[row][0]["steps"] / self[row][0]["steps_planned"])
                                for row in rows))  # fmt: skip
        return len({*sources}) == 1 and max(shares) <= 1.02 * min(shares)

    def real(self, rows, keys):
        """Of the first run that has them, the numbers of the real dev images."""
        for row in rows:
            for result in self.get(row, []):
                if all(result["real dev images"].get(key) is not None for key in keys):
                    return {key: result["real dev images"][key] for key in keys}
        return None

    def picture(self, model, run, file, width=400):
        """As HTML, where it is there."""
        path = self.folder / model / run / file
        return f'<img src="results/{model}/{run}/{file}" width="{width}">' if path.is_file() else ""


def length(result):
    return result["images"].get("training", 0), result["dataset"], result["steps"]


def spread(numbers, form):
    text = f"{median(numbers):{form}}"
    return text + (f" ({min(numbers):{form}} to {max(numbers):{form}})" if len(numbers) > 1 else "")


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
        steps = f"{one['steps']:,}"
        if one["steps"] < one["steps_planned"]:
            steps += f" of {one['steps_planned']:,}"
        cells = [found.cell(model, run, key, form) for key, form in (
            ("FID (Inception)", ".2f"), ("FID (classifier)", ".2f"), ("KID (classifier)", ".2f"), ("precision", ".3f"),
            ("recall", ".3f"))]  # fmt: skip
        own = [f"{name} {found.cell(model, run, key, form)}" for key, (name, form) in results.OWN.items()
               if found.numbers(model, run, key)]  # fmt: skip
        said = [f"{report}: {k} {v}" for report, figures in one["reported"].items() for k, v in figures.items()]
        numbers = ", ".join(str(result["seed"]) for result in seeds)
        lines.append([f"`{model}` `{run}`", f"{one['dataset']}: {counts}", steps, numbers, *cells])
        lines[-1] += [", ".join(own), ", ".join(said)]
    return table(columns, lines)


def figures(found):
    """The map of the reports' figures, and those that are here."""
    lines = []
    for reports, what, model, run, file in FIGURES:
        path = f"results/{model}/{run}/{file}"
        there = (found.folder / model / run / file).is_file()
        lines.append([reports, what, command(model, run), f"[{file}]({path})" if there else "made by the command"])
    return table(["reports", "figure", "command, after its `train.py`", "file"], lines, "---")


def latent_dimensions(found):
    """How does the latent dimension change a VAE?"""
    rows = {size: ("vae", f"mnist_z{size}") for size in (3, 10, 64, 100)}
    keys = {"FID (classifier)": ".1f", "dev ELBO (nats)": ".2f", "dev reconstruction (nats)": ".2f",
            "dev KL (nats)": ".2f", "active units": "g"}  # fmt: skip
    measured = {size: found.medians(*row, *keys) for size, row in rows.items()}
    said = UNMEASURED
    if all(measured.values()) and found.alike(*rows.values()):
        fid, elbo, error, kl, units = ({size: m[i] for size, m in measured.items()} for i in range(len(keys)))
        best = min(fid, key=fid.get)
        said = (
            f"The FID is lowest with {best} dimensions (A's and E's are with 100: this "
            f"{'agrees' if best == 100 else 'differs'}), the dev ELBO highest with {max(elbo, key=elbo.get)}. "
            f"Reconstruction is best with {min(error, key=error.get)} and worst with {max(error, key=error.get)}, the "
            f"KL highest with {max(kl, key=kl.get)} and lowest with {min(kl, key=kl.get)}. With 3 it is {kl[3]:.1f} "
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
        reached = abs(real - 0.5) < 0.05 and abs(before - 0.5) < 0.05 and abs(fresh - 0.5) < 0.05
        said = (
            f"On {found.source(rows[0])} {'yes' if reached else 'no'}: over the last tenth of the run D(x) is "
            f"{real - 0.5:+.2f} and "
            f"D(G(z)) {before - 0.5:+.2f} from one half, and D's own update moves D(G(z)) by {after - before:+.2f} "
            f"within a step. A discriminator trained anew against the generator, which stands still, tells {fresh:.0%} "
            "of new images right. (A: not reached, D(G(z)) near 0.5 just after G's update, D(x) near 0.6. C claims it "
            f"for faces. Ours {'differs from' if reached else 'agrees with'} A.)"
        )
    return found.lines(rows, keys), keys, said, [(*rows[0], "curves.png")]


def blur(found):
    """VAE or GAN, which is blurrier?"""
    keys = {"sharpness": ".4f", "high frequencies (share of energy)": ".4f"}
    rows = [("vae", "mnist_z100"), ("dcgan", "mnist"), ("vae", "celeba_z512"), ("dcgan", "celeba_z100")]
    lines = found.lines(rows, keys)
    for row in (rows[0], rows[2]):
        if real := found.real([row], keys):
            cells = [f"{real[key]:{form}}" for key, form in keys.items()]
            lines.append([f"real dev images, {found[row][0]['dataset']}", *cells])
    said, pair = UNMEASURED, [found.medians(*row, *keys) for row in rows[:2]]
    if all(pair) and found.alike(*rows[:2]):
        (vae, vae_tail), (gan, gan_tail) = pair
        blurrier = "VAE" if vae < gan else "GAN", "VAE" if vae_tail < gan_tail else "GAN"
        said = (
            f"On {found.source(rows[0])} the {blurrier[0]} by the variance of the Laplacian ({vae:.3f} for the VAE, "
            f"{gan:.3f} for the "
            f"GAN), {'and' if blurrier[0] == blurrier[1] else 'but'} the {blurrier[1]} by the spectrum's tail "
            f"({vae_tail:.2%} of the energy and {gan_tail:.2%}). (A found the VAE blurrier: this "
            f"{'agrees' if blurrier == ('VAE', 'VAE') else 'differs'}.)"
        )
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
    said, pair = UNMEASURED, [found.medians(*row, *keys) for row in rows[:2]]
    if all(pair) and found.alike(*rows[:2]):
        longest, way, ends, middles, sure, halfway = zip(*(values[1:] for values in pair))  # each VAE's, GAN's
        change, rise = ([b[i] - a[i] for i in (0, 1)] for a, b in ((sure, halfway), (ends, middles)))
        smoother = longest[0] < longest[1] and way[0] < way[1]
        said = (
            f"On the way from one code to another the VAE's pictures go {way[0]:.2f} times as far as straight on, in "
            f"the classifier's features, the GAN's {way[1]:.2f} times; the longest of eight steps is {longest[0]:.2f} "
            f"and {longest[1]:.2f} times the mean one. Halfway the classifier's confidence has changed by "
            f"{change[0]:+.3f} with the VAE, by {change[1]:+.3f} with the GAN. (A: the VAE's space is smoother and "
            f"stays on digits. By the paths this {'agrees' if smoother else 'differs'}, by the change of confidence it "
            f"{'agrees' if change[0] > change[1] else 'differs'}.) The FID's change halfway, {rise[0]:+.1f} and "
            f"{rise[1]:+.1f}, is not all the decoder's fault: codes there are shorter than codes of N(0, I)."
        )
    return found.lines(rows, keys), keys, said, [(*row, "interpolation.png") for row in rows[:2]]


def collapse(found):
    """Do modes collapse, and are images learnt by heart?"""
    keys = {"classes covered": "g", "recall": ".3f", "nearest training image (grey levels)": ".1f"}
    rows = [row for row in sorted(found) if "MNIST" in found[row][0]["dataset"]]
    most = max((found[row][0]["images"].get("training", 0) for row in rows), default=0)
    rows = [row for row in rows if found[row][0]["images"].get("training", 0) == most]  # of the same images
    lines, said = found.lines(rows, keys), UNMEASURED
    measured = {row: values for row in rows if (values := found.medians(*row, *keys))}
    if measured and (real := found.real(measured, keys)):
        lines.append(["real dev images", *(f"{real[key]:{form}}" for key, form in keys.items())])
        fewest = {row: min(found.numbers(*row, "classes covered")) for row in measured}
        fewer = [f"`{' '.join(row)}` ({count:g})" for row, count in fewest.items() if count < 10]
        drawn = f"fewer than ten classes are in {', '.join(fewer)}" if fewer else "all draw all ten classes"
        least, nearest = (min(measured, key=lambda row: measured[row][i]) for i in (1, 2))
        said = (
            f"Of {len(measured)} measured runs {drawn}. The least varied is `{' '.join(least)}`, recall "
            f"{measured[least][1]:.3f} where real dev images have {real['recall']:.3f}. Nearest to the training images "
            f"is `{' '.join(nearest)}`, {measured[nearest][2]:.1f} grey levels a pixel where real dev images are "
            f"{real['nearest training image (grey levels)']:.1f} away. (A saw the GAN's 1s look like 7s.)"
        )
    return lines, keys, said, [(*row, "samples.png") for row in (("dcgan", "mnist"), ("wgan", "mnist"))]


def bias(found):
    """Does a bias in the generator's transposed convolutions do harm?"""
    keys = {"FID (classifier)": ".1f", "KID (classifier)": ".2f", "precision": ".3f", "recall": ".3f"}
    rows, said = [("dcgan", "mnist"), ("dcgan", "mnist_bias")], UNMEASURED
    if found.alike(*rows):
        plain, biased = (found.numbers(*row, "FID (classifier)") for row in rows)
        within = "within" if min(plain) <= median(biased) <= max(plain) else "outside of"
        seeds = f", {within} the range of {len(plain)} seeds" if len(plain) > 1 else ""
        harm = median(biased) / median(plain)
        said = (
            f"With a bias the FID is {spread(biased, '.1f')}, without {spread(plain, '.1f')}: {harm:.2f} times as "
            f"much{seeds}. (A: above 80 and 57.07, at least 1.4 times as much: this "
            f"{'agrees' if harm >= 1.4 else 'differs'}.)"
        )
    return found.lines(rows, keys), keys, said, [(*rows[1], "samples.png")]


def separation(found):
    """Do a VAE's codes of faces tell their attributes apart?"""
    keys = {f"{what}, {name} (accuracy)": ".1%" for name in ("Male", "Smiling") for what in ("linear probe", "chance")}
    rows, said = [("vae", "celeba_z512"), ("vae", "celeba_z128")], UNMEASURED
    if measured := found.medians(*rows[0], *keys):
        sex, by_chance, smile, guessed = measured
        said = (
            f"A linear probe of the test codes tells the sex of {sex:.1%} (chance {by_chance:.1%}), a smile of "
            f"{smile:.1%} (chance {guessed:.1%}): {'the codes hold' if sex > by_chance + 0.1 else 'they hardly hold'} "
            "the sex, however little of it t-SNE shows. (By t-SNE B saw no clear separation, C some trend.)"
        )
    return found.lines(rows, keys), keys, said, [(*rows[0], "tsne.png")]


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
    pictures = [(*rows[0], "pairs.png"), (*rows[3], "categorical_1.png"), (*rows[1], "pairs.png")]
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
    measured = [found.medians(*row, "FID (classifier)") for row in wgans]
    if all(measured) and found.alike(*wgans):
        (div,), (gp,) = measured
        steps = " and ".join(f"{found[row][0]['steps']:,}" for row in wgans)
        said += [f"After {steps} steps the FID is {div:.2f} with WGAN-DIV and {gp:.2f} with WGAN-GP."]
    measured = [found.medians(*row, "test MSE", "test KL (nats)") for row in betas]
    if all(measured) and found.alike(*betas):
        mse, kl = zip(*measured)
        steps = f"{found[betas[0]][0]['steps']:,} of {found[betas[0]][0]['steps_planned']:,}"
        as_d = list(mse) == sorted(mse) and list(kl) == sorted(kl, reverse=True)
        mse, kl = (", ".join(f"{value:{form}}" for value in values) for values, form in ((mse, ".4f"), (kl, ".2f")))
        said += [f"After {steps} steps with beta 2, 4, 6 the test MSE is {mse} and the KL {kl} nats: "
                 f"{'' if as_d else 'not '}as D saw."]  # fmt: skip
    measured = [found.medians(*row, "FID (classifier)") for row in dcgans]
    if all(measured) and found.alike(*dcgans):
        said += [f"C's DCGAN, of two updates of G a step, has an FID of {measured[0][0]:.2f}, B's, of one and of other "
                 f"widths, {measured[1][0]:.2f}."]  # fmt: skip
    else:
        said += ["Two updates of G a step (C's `dcgan` `celeba_z100`) and one (B's `celeba_z128`) are not compared: "
                 f"{UNMEASURED}."]  # fmt: skip
    pictures = [(*row, "fid_by_step.png") for row in wgans] + [(*betas[0], "compared.png")]
    return lines, keys, " ".join(said), [*pictures, *((*row, "curves.png") for row in dcgans)]


QUESTIONS = latent_dimensions, equilibrium, bias, blur, smoothness, collapse, separation, codes, side_by_side


def text(found):
    """The page."""
    parts = [
        "# Results", "Written by `python page.py` from `results/`, never by hand; `./run_all.sh` makes it all anew. "
        "FID and KID (classifier) are by TF-GAN's functions on the 128 features of the dataset's classifier in "
        "`common/weights/`, FID (Inception) on TF-GAN's Inception; README.md says how each number is made. Of several "
        "seeds: the median (lowest to highest).",
        "## All runs", overview(found),
        "## The reports' figures",
        "Faces and CIFAR-10's images may not be published here, so figures that show them are made, not kept.",
        figures(found),
        "## The reports' questions",
    ]  # fmt: skip
    for question in QUESTIONS:
        lines, keys, said, pictures = question(found)
        parts += [f"### {question.__doc__}", table(["run", *keys], lines), said]
        parts += ["\n".join(filter(None, (found.picture(*picture) for picture in pictures)))]
    if found.left_out:
        parts += [f"Left out: {', '.join(found.left_out)}."]
    return "\n\n".join(filter(None, parts)) + "\n"


def write(folder: Path) -> None:
    """Writes RESULTS.md in `folder`, from its results/."""
    folder.mkdir(parents=True, exist_ok=True)
    with data.whole(folder / "RESULTS.md") as draft:
        draft.write_text(text(Results(folder / "results")))


if __name__ == "__main__":
    write(data.ROOT)
    print(f"wrote {data.ROOT / 'RESULTS.md'}")
