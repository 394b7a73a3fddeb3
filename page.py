"""`python page.py`: writes RESULTS.md from what results/ holds. run_all.sh calls it at its end.

The page is about this very collection, so rows are named here as nowhere else outside the scripts. Of a run of several
seeds it shows the median, and from the lowest to the highest; what no run has measured is called unmeasured.
"""

import json
from pathlib import Path
from statistics import median

from common import data

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
    ("B, C", "VAE: test faces over their reconstructions", "vae", "celeba_z512", "reconstructions.png"),
    ("B, C", "VAE: samples", "vae", "celeba_z512", "samples.png"),
    ("B, C", "VAE: t-SNE of the test codes by attribute", "vae", "celeba_z512", "tsne.png"),
    ("B", "DCGAN: G's and D's loss, D's on real and on fake", "dcgan", "celeba_z128", "curves.png"),
    ("C", "GAN: learning curves", "dcgan", "celeba_z100", "curves.png"),
    ("B, C", "GAN: samples", "dcgan", "celeba_z100", "samples.png"),
    ("B", "ACGAN: four losses of D", "acgan", "celeba_male", "curves.png"),
    ("B", "ACGAN: ten pairs, female and male", "acgan", "celeba_male", "pairs.png"),
    ("C", "ACGAN: learning curves", "acgan", "celeba_smiling", "curves.png"),
    ("C", "ACGAN: ten pairs, not smiling and smiling", "acgan", "celeba_smiling", "pairs.png"),
    ("C", "InfoGAN: five categorical codes, the first", "infogan", "celeba_cat5x10", "categorical_1.png"),
    ("C", "InfoGAN: one categorical code", "infogan", "celeba_cat10_cont2", "categorical_1.png"),
    ("C", "InfoGAN: a continuous code", "infogan", "celeba_cat10_cont2", "continuous_1.png"),
    ("D", "WGAN-DIV: samples as training goes on", "wgan", "cifar10_div", "training.gif"),
    ("D", "WGAN-DIV: samples", "wgan", "cifar10_div", "samples.png"),
    ("D", "beta-VAE: MSE and KL of three betas", "vae", "cifar10_beta2", "compared.png"),
    ("D", "beta-VAE: reconstructions and samples", "vae", "cifar10_beta2", "decoded.png"),
]
# What the first table shows of a model's own numbers.
OWN = {
    "test MSE": ("test MSE", ".5f"),
    "dev ELBO (nats)": ("dev ELBO", ".2f"),
    "asked label read (share)": ("label read", ".1%"),
    "code is the digit read (share)": ("code is the digit", ".1%"),
}
# What every metrics.json has.
KEYS = "dataset", "images", "steps", "steps_planned", "seed", "metrics", "real dev images", "own", "reported"
UNMEASURED = "unmeasured"


class Results(dict):
    """By (model, run), the metrics.json of its seeds; `damaged` names files that can't be read."""

    def __init__(self, folder: Path):
        super().__init__()
        self.folder, self.damaged = folder, []
        for path in sorted(folder.glob("*/*/metrics.json")):
            try:
                result = json.loads(path.read_text())
                if missing := [key for key in KEYS if key not in result]:
                    raise KeyError(*missing)
                self.setdefault((result["model"], result["run"]), []).append(result)
            except (ValueError, KeyError, TypeError):
                self.damaged.append(path)
        for seeds in self.values():
            seeds.sort(key=lambda result: result["seed"])

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

    def picture(self, model, run, file, width=400):
        """As HTML, where it is there."""
        path = self.folder / model / run / file
        return f'<img src="results/{model}/{run}/{file}" width="{width}">' if path.is_file() else ""


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
    for (model, run), seeds in sorted(found.items(), key=lambda item: (item[1][0]["dataset"] != "MNIST", item[0])):
        one = seeds[0]
        counts = ", ".join(f"{one['images'][part]:,}" for part in ("training", "dev", "test"))
        steps = ", ".join(sorted({f"{result['steps']:,}" for result in seeds}))
        if min(result["steps"] for result in seeds) < one["steps_planned"]:
            steps += f" of {one['steps_planned']:,}"
        cells = [found.cell(model, run, key, form) for key, form in (
            ("FID (Inception)", ".2f"), ("FID (classifier)", ".2f"), ("KID (classifier)", ".2f"), ("precision", ".3f"),
            ("recall", ".3f"))]  # fmt: skip
        own = [f"{name} {found.cell(model, run, key, form)}" for key, (name, form) in OWN.items()
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
            "dev KL (nats)": ".2f", "active units": ".0f"}  # fmt: skip
    measured = {size: found.medians(*row, *keys) for size, row in rows.items()}
    said = UNMEASURED
    if all(measured.values()):
        fid, elbo, error, kl, units = ({size: m[i] for size, m in measured.items()} for i in range(len(keys)))
        best = min(fid, key=fid.get)
        said = (
            f"The FID is lowest with {best} dimensions (A's and E's are with 100: this "
            f"{'agrees' if best == 100 else 'differs'}), the dev ELBO highest with {max(elbo, key=elbo.get)}. "
            f"Reconstruction is best with {min(error, key=error.get)} and worst with {max(error, key=error.get)}, the "
            f"KL highest with {max(kl, key=kl.get)} and lowest with {min(kl, key=kl.get)}. With 3 it is {kl[3]:.1f} "
            f"nats (A saw it fall to about 0: this {'agrees' if kl[3] < 0.5 else 'differs'}). Of 64 units "
            f"{units[64]:.0f} are active, of 100 {units[100]:.0f}."
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
        reached = abs(real - 0.5) < 0.05 and abs(before - 0.5) < 0.05 and fresh < 0.55
        said = (
            f"On MNIST {'yes' if reached else 'no'}: over the last tenth of the run D(x) is {real - 0.5:+.2f} and "
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
        for result in found.get(row, [])[:1]:
            real = result["real dev images"]
            cells = [f"{real[key]:{form}}" if key in real else UNMEASURED for key, form in keys.items()]
            lines.append([f"real dev images, {result['dataset']}", *cells])
    said, pair = UNMEASURED, [found.medians(*row, *keys) for row in rows[:2]]
    if all(pair):
        (vae, vae_tail), (gan, gan_tail) = pair
        blurrier = "VAE" if vae < gan else "GAN", "VAE" if vae_tail < gan_tail else "GAN"
        said = (
            f"On MNIST the {blurrier[0]} by the variance of the Laplacian ({vae:.3f} for the VAE, {gan:.3f} for the "
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
    if all(pair):
        (step, longest, _, ends, middles, _, sure), (g_step, g_longest, _, g_ends, g_middles, _, g_sure) = pair
        smoother = step < g_step and longest < g_longest
        said = (
            f"From one code to another the VAE's picture moves {step:.1f} a step in the classifier's features, the "
            f"GAN's {g_step:.1f}; the longest of the eight steps is {longest:.2f} and {g_longest:.2f} times the mean "
            f"one. Halfway the classifier is {sure:.1%} sure of its digit with the VAE, {g_sure:.1%} with the GAN, and "
            f"the FID is {middles / ends:.2f} and {g_middles / g_ends:.2f} times that of the ends. (A: the VAE's is "
            f"smoother and stays on digits. By steps this {'agrees' if smoother else 'differs'}, by the classifier's "
            f"confidence it {'agrees' if sure > g_sure else 'differs'}.)"
        )
    return found.lines(rows, keys), keys, said, [(*row, "interpolation.png") for row in rows[:2]]


def collapse(found):
    """Do modes collapse, and are images learnt by heart?"""
    keys = {"classes covered": ".0f", "recall": ".3f", "nearest training image (grey levels)": ".1f"}
    rows = [row for row in sorted(found) if found[row][0]["dataset"] == "MNIST"]
    lines, said = found.lines(rows, keys), UNMEASURED
    measured = {f"`{' '.join(row)}`": found.medians(*row, *keys) for row in rows}
    if rows and all(measured.values()):
        real = [found[rows[0]][0]["real dev images"][key] for key in keys]
        lines.append(["real dev images", *(f"{value:{form}}" for value, form in zip(real, keys.values()))])
        fewer = [f"{name} ({values[0]:.0f})" for name, values in measured.items() if values[0] < 10]
        least, nearest = (min(measured, key=lambda name: measured[name][i]) for i in (1, 2))
        said = (
            f"{'Fewer than ten classes: ' + ', '.join(fewer) if fewer else 'All ten classes are there in each run'}. "
            f"The least varied is {least}, recall {measured[least][1]:.3f} where real dev images have {real[1]:.3f}. "
            f"Nearest to the training images is {nearest}, {measured[nearest][2]:.1f} grey levels a pixel where real "
            f"dev images are {real[2]:.1f} away. (A saw the GAN's 1s look like 7s.)"
        )
    return lines, keys, said, []


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
    if all(measured):
        (div,), (gp,) = measured
        steps = " and ".join(f"{found[row][0]['steps']:,}" for row in wgans)
        said += [f"After {steps} steps the FID is {div:.2f} with WGAN-DIV and {gp:.2f} with WGAN-GP."]
    measured = [found.medians(*row, "test MSE", "test KL (nats)") for row in betas]
    if all(measured):
        mse, kl = zip(*measured)
        as_d = list(mse) == sorted(mse) and list(kl) == sorted(kl, reverse=True)
        mse, kl = (", ".join(f"{value:{form}}" for value in values) for values, form in ((mse, ".4f"), (kl, ".2f")))
        said += [f"With beta 2, 4, 6 the test MSE is {mse} and the KL {kl} nats: {'' if as_d else 'not '}as D saw."]
    said += ["C's DCGAN (`celeba_z100`) has two updates of G a step, B's (`celeba_z128`) one, and other widths."]
    pictures = [(*row, "fid_by_step.png") for row in wgans] + [(*betas[0], "compared.png")]
    return lines, keys, " ".join(said), [*pictures, *((*row, "curves.png") for row in dcgans)]


QUESTIONS = latent_dimensions, equilibrium, blur, smoothness, collapse, side_by_side


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
    if found.damaged:
        parts += ["Left out, since they can't be read: " + ", ".join(f"`{path.parent}`" for path in found.damaged)]
    return "\n\n".join(filter(None, parts)) + "\n"


def write(folder: Path) -> None:
    """Writes RESULTS.md in `folder`, from its results/."""
    with data.whole(folder / "RESULTS.md") as draft:
        draft.write_text(text(Results(folder / "results")))


if __name__ == "__main__":
    write(data.ROOT)
    print(f"wrote {data.ROOT / 'RESULTS.md'}")
