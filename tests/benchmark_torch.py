"""The first rows of the five train.py in plain PyTorch, for tests/benchmark.py.

A step takes uint8 images (n, H, W, C), their labels (n,), and the random draws as `draw` gives them; it returns its
losses. No gradient is computed that no optimiser wants.
"""

import math
import time
from itertools import chain

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class ToMap(nn.Module):
    """(n, 16 c) to a map (n, c, 4, 4), which is channels_last as it is."""

    def forward(self, x):
        return x.view(len(x), 4, 4, -1).permute(0, 3, 1, 2)


class Flatten(nn.Module):
    def forward(self, x):
        return x.permute(0, 2, 3, 1).flatten(1)


def sequential(*blocks):
    return nn.Sequential(*chain.from_iterable(blocks))


def down(i, o, slope=0.2, norm=True, bias=False):
    return [nn.Conv2d(i, o, 4, 2, 1, bias=bias), *([nn.BatchNorm2d(o)] if norm else []), nn.LeakyReLU(slope)]


def trunk(slope):
    """ACGAN's and InfoGAN's discriminator up to its heads."""
    return sequential(down(1, 16, slope, norm=False), down(16, 32, slope), down(32, 64, slope), [Flatten()])


def up(i, o, slope):
    return [nn.BatchNorm2d(i), nn.LeakyReLU(slope), nn.ConvTranspose2d(i, o, 4, 2, 1, bias=False)]


def generator(inputs, slope):
    """ACGAN's, InfoGAN's and WGAN's."""
    dense = nn.Linear(inputs, 16 * 64, bias=False)
    return sequential([dense, ToMap()], up(64, 32, slope), up(32, 16, slope), up(16, 1, slope), [nn.Tanh()])


def bce(label, logits):
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))


def update(optimizer, loss, **options):
    parameters = optimizer.param_groups[0]["params"]
    apply(optimizer, torch.autograd.grad(loss, parameters, **options))


def apply(optimizer, gradients):
    for parameter, gradient in zip(optimizer.param_groups[0]["params"], gradients):
        # (The fused Adam walks through both in the order of memory.)
        same = gradient.stride() == parameter.stride()
        parameter.grad = gradient if same else torch.empty_like(parameter).copy_(gradient)
    optimizer.step()
    torch.clear_autocast_cache()  # of the weights before, which the rest of the step would go on with


def adam(networks, rate, beta_1, beta_2=0.999):
    parameters = list(chain.from_iterable(network.parameters() for network in networks))
    return torch.optim.Adam(parameters, rate, (beta_1, beta_2), eps=1e-7, fused=True)


def scaled(images):
    """To [-1, 1], channels_last."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1.0


class VAE:
    def __init__(self, row):
        self.latent_dim = row["latent_dim"]
        convolutions = [[nn.Conv2d(i, o, 4, 2, 1), nn.ReLU()] for i, o in ((1, 32), (32, 64), (64, 128))]
        self.encoder = sequential(*convolutions, [Flatten()])
        self.mean, self.log_variance = nn.Linear(2048, self.latent_dim), nn.Linear(2048, self.latent_dim)
        self.decoder = sequential(
            [nn.Linear(self.latent_dim, 2048), nn.ReLU(), ToMap()],
            [nn.ConvTranspose2d(128, 64, 4, 2, 1), nn.ReLU()],
            [nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(32, 1, 4, 2, 1)],
        )
        self.networks = {"encoder": [self.encoder, self.mean, self.log_variance], "decoder": [self.decoder]}
        self.optimizer = adam(chain(*self.networks.values()), row["learning_rate"], row["beta_1"])

    def draw(self, count):
        return [torch.randn(count, self.latent_dim)]

    def step(self, images, labels, noise):
        images = images.permute(0, 3, 1, 2).float() / 255.0
        x = self.encoder(images)
        mean, log_variance = self.mean(x), self.log_variance(x)
        logits = self.decoder(mean + torch.exp(0.5 * log_variance) * noise[0])
        reconstruction = F.binary_cross_entropy_with_logits(logits, images, reduction="sum") / len(images)
        kl = 0.5 * (mean**2 + torch.exp(log_variance) - 1.0 - log_variance).sum(1).mean()
        update(self.optimizer, reconstruction + kl)
        return {"reconstruction": reconstruction, "kl": kl}


class DCGAN:
    def __init__(self, row):
        self.latent_dim = row["latent_dim"]
        pairs = (64, 32), (32, 16)
        ups = [[nn.ConvTranspose2d(i, o, 4, 2, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU()] for i, o in pairs]
        first = [nn.ConvTranspose2d(self.latent_dim, 64, 4, 1, 0, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
        self.generator = sequential(first, *ups, [nn.ConvTranspose2d(16, 1, 4, 2, 1, bias=False), nn.Tanh()])
        last = [nn.Conv2d(64, 1, 4, bias=False), nn.Flatten()]
        self.discriminator = sequential(down(1, 16, norm=False), down(16, 32), down(32, 64), last)
        self.networks = {"generator": [self.generator], "discriminator": [self.discriminator]}
        self.g_optimizer = adam([self.generator], row["learning_rate"], 0.5)
        self.d_optimizer = adam([self.discriminator], row["learning_rate"], 0.5)

    def draw(self, count):
        return [torch.randn(count, self.latent_dim)]

    def step(self, images, labels, noise):
        fakes = self.generator(noise[0][:, :, None, None])
        d_loss = bce(1.0, self.discriminator(scaled(images))) + bce(0.0, self.discriminator(fakes.detach()))
        update(self.d_optimizer, d_loss)
        g_loss = bce(1.0, self.discriminator(fakes))
        update(self.g_optimizer, g_loss)
        return {"d_loss": d_loss, "g_loss": g_loss}


class ACGAN:
    def __init__(self, row):
        self.latent_dim = row["latent_dim"]
        self.generator = generator(self.latent_dim + 10, row["slope"])
        self.discriminator = trunk(row["slope"])
        self.source, self.label = nn.Linear(1024, 1), nn.Linear(1024, 10)
        heads = [self.discriminator, self.source, self.label]
        self.networks = {"generator": [self.generator], "discriminator": heads}
        self.g_optimizer = adam([self.generator], row["learning_rate"], 0.5)
        self.d_optimizer = adam(heads, row["learning_rate"], 0.5)

    def draw(self, count):
        return [torch.randn(count, self.latent_dim), F.one_hot(torch.randint(10, [count]), 10).float()]

    def losses(self, source, images, labels):
        x = self.discriminator(images)
        return bce(source, self.source(x)) + F.cross_entropy(self.label(x), labels)

    def step(self, images, labels, noise):
        asked = noise[1].argmax(1)
        fakes = self.generator(torch.cat(noise, 1))
        d_loss = self.losses(1.0, scaled(images), labels.long()) + self.losses(0.0, fakes.detach(), asked)
        update(self.d_optimizer, d_loss)
        g_loss = self.losses(1.0, fakes, asked)
        update(self.g_optimizer, g_loss)
        return {"d_loss": d_loss, "g_loss": g_loss}


class InfoGAN:
    def __init__(self, row):
        self.row = row
        self.generator = generator(row["latent_dim"] + 10 + row["continuous"], row["slope"])
        self.discriminator, self.source = trunk(row["slope"]), nn.Linear(1024, 1)
        self.q_hidden = nn.Sequential(nn.Linear(1024, 128), nn.LeakyReLU(row["slope"]))
        self.q_categorical, self.q_continuous = nn.Linear(128, 10), nn.Linear(128, 2 * row["continuous"])
        q = [self.q_hidden, self.q_categorical, self.q_continuous]
        self.networks = {"generator": [self.generator], "discriminator": [self.discriminator, self.source, *q]}
        self.d_optimizer = adam([self.discriminator, self.source], row["learning_rate"], 0.5)
        self.g_optimizer = adam([self.generator], row["learning_rate"], 0.5)
        self.q_optimizer = adam([self.discriminator, *q, self.generator], row["q_learning_rate"], 0.5)

    def draw(self, count):
        noise, continuous = (torch.rand(count, self.row[key]) * 2 - 1 for key in ("latent_dim", "continuous"))
        return [noise, F.one_hot(torch.randint(10, [count]), 10).float(), continuous]

    def step(self, images, labels, noise):
        _, categorical, continuous = noise = [x.flatten(1) for x in noise]
        fakes = self.generator(torch.cat(noise, 1))
        reals, known = (self.source(self.discriminator(x)) for x in (scaled(images), fakes.detach()))
        d_loss = bce(1.0, reals) + bce(0.0, known)
        update(self.d_optimizer, d_loss)
        x = self.discriminator(fakes)
        g_loss = bce(1.0, self.source(x))
        q = self.q_hidden(x)
        mean, log_variance = self.q_continuous(q).chunk(2, 1)
        log_variance = log_variance.clamp(min=-2.0)
        bound = math.log(10) - F.cross_entropy(self.q_categorical(q), categorical.argmax(1))
        nll = 0.5 * (math.log(2 * math.pi) + log_variance + (continuous - mean) ** 2 * torch.exp(-log_variance))
        q_loss = -bound - self.row["continuous_weight"] * (math.log(2) - nll.mean(0)).sum()
        wanted = [optimizer.param_groups[0]["params"] for optimizer in (self.g_optimizer, self.q_optimizer)]
        g_gradients = torch.autograd.grad(g_loss, wanted[0], retain_graph=True)
        q_gradients = torch.autograd.grad(q_loss, wanted[1])
        apply(self.g_optimizer, g_gradients)
        apply(self.q_optimizer, q_gradients)
        return {"d_loss": d_loss, "g_loss": g_loss, "q_loss": q_loss}


class WGAN:
    def __init__(self, row):
        self.row = row
        self.generator = generator(row["latent_dim"], row["slope"])
        downs = (down(i, o, norm=False, bias=True) for i, o in ((1, 16), (16, 32), (32, 64)))
        self.critic = sequential(*downs, [Flatten(), nn.Linear(1024, 1)])
        self.networks = {"generator": [self.generator], "critic": [self.critic]}
        rates = row["learning_rate"], row["beta_1"], row["beta_2"]
        self.g_optimizer, self.c_optimizer = adam([self.generator], *rates), adam([self.critic], *rates)

    def draw(self, count):
        count //= self.row["batches_per_step"]
        pairs = [(torch.randn(count, self.row["latent_dim"]), torch.rand(count, 1, 1, 1)) for _ in range(6)]
        return list(chain.from_iterable(pairs))

    def step(self, images, labels, noise):
        *pairs, (last, _) = zip(noise[::2], noise[1::2])
        for reals, (z, u) in zip(scaled(images).chunk(len(pairs)), pairs):
            with torch.no_grad():
                fakes = self.generator(z)
            real_scores, fake_scores = self.critic(torch.cat([reals, fakes])).chunk(2)
            between = (u * reals + (1.0 - u) * fakes).requires_grad_()
            (gradient,) = torch.autograd.grad(self.critic(between).sum(), between, create_graph=True)
            norm = torch.sqrt((gradient**2).sum([1, 2, 3]) + 1e-12)
            penalty = self.row["weight"] * ((norm - self.row["target"]).abs() ** self.row["power"]).mean()
            critic_loss = penalty - real_scores.mean() + fake_scores.mean()
            update(self.c_optimizer, critic_loss)
        g_loss = -self.critic(self.generator(last)).mean()
        update(self.g_optimizer, g_loss)
        return {"critic_loss": critic_loss, "g_loss": g_loss}


class Counter(TorchDispatchMode):
    """Counts as PyTorch's own FlopCounterMode does, which can't follow the gradient of a gradient."""

    flop = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if count := flop_registry.get(function._overloadpacket):
            self.flop += count(*args, **(kwargs or {}), out_val=result)
        return result


class Torch:
    """A side of the benchmark; `variant`: "eager" or "compile"."""

    def __init__(self, precision, variant):
        self.precision, self.variant = precision, variant

    def load(self, model, row, weights, images, labels):
        """Keras' kernels, biases, scales and offsets of each network, in the order of its layers; the data."""
        self.model = {"vae": VAE, "dcgan": DCGAN, "acgan": ACGAN, "infogan": InfoGAN, "wgan": WGAN}[model](row)
        self.size = row["batch_size"] * row.get("batches_per_step", 1)
        self.images, self.labels = torch.from_numpy(images), torch.from_numpy(labels)
        self.order = torch.empty(0, dtype=torch.int64)
        for name, parts in self.model.networks.items():
            parameters = list(chain.from_iterable(part.parameters() for part in parts))
            for parameter, array in zip(parameters, map(torch.from_numpy, weights[name]), strict=True):
                parameter.data.copy_(array.permute({4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[array.ndim]))
            for part in parts:
                part.to(memory_format=torch.channels_last)
                # (A compiled critic would have no second derivative.)
                if self.variant == "compile" and name != "critic":
                    part.compile()

    def step(self, images, labels, draws):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16"):
            losses = self.model.step(images, labels, draws)
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def steps(self, batches):
        """The losses of steps on given images, labels and draws, all arrays."""
        tensors = ((*map(torch.from_numpy, batch[:2]), [*map(torch.from_numpy, batch[2])]) for batch in batches)
        return [self.step(*batch) for batch in tensors]

    def next_step(self):
        if len(self.order) < self.size:
            self.order = torch.randperm(len(self.images))
        batch, self.order = self.order[: self.size], self.order[self.size :]
        return self.step(self.images[batch], self.labels[batch], self.model.draw(self.size))

    def seconds(self, count):
        """Of `count` steps."""
        begun = time.perf_counter()
        for _ in range(count):
            self.next_step()
        return time.perf_counter() - begun

    def gflop(self):
        """Of a step: those of its convolutions and matrix products."""
        with Counter() as counter:
            self.next_step()
        return counter.flop / 1e9

    def peak(self, precision):
        """GFLOP a second of a matrix product."""
        from benchmark import fastest

        a = torch.randn(2048, 2048, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
        return fastest(lambda: a @ a)
