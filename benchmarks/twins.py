"""The rows of benchmarks/speed.py in plain PyTorch.

A step takes uint8 images (n, H, W, C), their labels (n,), and the random draws that `draw` returns; it returns its
losses. Only gradients that an optimizer needs are computed.

For an odd kernel with stride 2, TensorFlow pads the right and bottom more, PyTorch the left and top. So everything here
works on mirrored images with mirrored kernels, except for report B's networks, which have no such kernel.
"""

import math
import time
import timeit
from itertools import chain, pairwise

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class ToMap(nn.Module):
    """Turns (n, side^2 c) into a map (n, c, side, side), which is already channels_last in memory."""

    def __init__(self, side=4):
        super().__init__()
        self.side = side

    def forward(self, x):
        return x.view(len(x), self.side, self.side, -1).flip((1, 2)).permute(0, 3, 1, 2)


class Flatten(nn.Module):
    def forward(self, x):
        return x.permute(0, 2, 3, 1).flip((1, 2)).flatten(1)


class Rescale(nn.Module):
    def __init__(self, scale, offset=0.0):
        super().__init__()
        self.scale, self.offset = scale, offset

    def forward(self, x):
        return x * self.scale + self.offset


class Residual(nn.Module):
    def __init__(self, block, skip):
        super().__init__()
        self.block, self.skip = nn.Sequential(*block), nn.Sequential(*skip)

    def forward(self, x):
        return self.skip(x) + self.block(x)


def sequential(*blocks):
    return nn.Sequential(*chain.from_iterable(blocks))


def conv(i, o, size=4, stride=2, bias=False):
    return nn.Conv2d(i, o, size, stride, (size - 1) // 2, bias=bias)


def up(i, o, size=4, stride=2, bias=False):
    return nn.ConvTranspose2d(i, o, size, stride, (size - 1) // 2, int(size % 2 and stride == 2), bias=bias)


def from_point(i, o):
    """Turns (n, i) into a map (n, o, 4, 4)."""
    return [nn.Unflatten(1, (i, 1, 1)), nn.ConvTranspose2d(i, o, 4, bias=False)]


def down(i, o, slope=0.2, size=4, stride=2, norm=True, bias=False):
    return [conv(i, o, size, stride, bias), *([nn.BatchNorm2d(o)] if norm else []), nn.LeakyReLU(slope)]


def trunk(slope):
    """Returns ACGAN's and InfoGAN's discriminator for MNIST, without its heads."""
    return sequential(down(1, 16, slope, norm=False), down(16, 32, slope), down(32, 64, slope), [Flatten()])


def generator(inputs, channels, activation, bias=False):
    """Returns a generator that begins with a dense layer; `channels` are those of its maps, smallest map first."""
    x = [nn.Linear(inputs, 16 * channels[0], bias=bias), ToMap()]
    for i, o in pairwise(channels):
        x += [nn.BatchNorm2d(i), activation, up(i, o, bias=bias)]
    return nn.Sequential(*x, nn.Tanh())


def noise(settings, count):
    shape = count, settings["latent_dim"]
    return torch.rand(shape) * 2 - 1 if settings.get("noise") == "uniform" else torch.randn(shape)


def bce(label, logits):
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))


def update(optimizer, loss):
    parameters = optimizer.param_groups[0]["params"]
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters)):
        # (The fused Adam goes through both in memory order.)
        same = gradient.stride() == parameter.stride()
        parameter.grad = gradient if same else torch.empty_like(parameter).copy_(gradient)
    optimizer.step()


def adam(networks, rate, beta_1, beta_2=0.999):
    parameters = list(chain.from_iterable(network.parameters() for network in networks))
    return torch.optim.Adam(parameters, rate, (beta_1, beta_2), eps=1e-7, fused=True)


def scaled(images):
    """Scales images to [-1, 1], channels_last in memory."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1.0


def vae_a(latent_dim):
    """Returns A's encoder, the size of its output, and A's decoder."""
    convs = [[conv(i, o, 3, s, True), nn.ReLU()] for i, o, s in ((1, 16, 1), (16, 32, 2), (32, 32, 1), (32, 16, 2))]
    encoder = sequential(*convs, [Flatten(), nn.Linear(1024, 2 * latent_dim), nn.ReLU()])
    dense = [nn.Linear(latent_dim, latent_dim), nn.ReLU(), nn.Linear(latent_dim, 1024), ToMap(8)]
    ups = [[up(i, o, 3, s, True), nn.ReLU()] for i, o, s in ((16, 32, 2), (32, 32, 1), (32, 16, 2))]
    return encoder, 2 * latent_dim, sequential(dense, *ups, [up(16, 1, 3, 1, True)])


def vae_d(latent_dim):
    """Like `vae_a`, for D."""

    def after(layer, o):
        return [layer, nn.ReLU(), nn.BatchNorm2d(o)]

    shapes = (3, 32, 4, 2), (32, 64, 4, 2), (64, 128, 3, 1), (128, 128, 4, 2)
    convs = [after(conv(*shape, True), shape[1]) for shape in shapes]
    last = after(nn.Conv2d(128, 256, 4), 256)
    encoder = sequential([Rescale(255.0)], *convs, last, [Flatten(), nn.Linear(256, 1024)])
    dense = [nn.Linear(latent_dim, 1024), nn.ReLU(), nn.Linear(1024, 4096), nn.ReLU(), ToMap()]
    shapes = (256, 256, 4, 2), (256, 256, 3, 1), (256, 128, 4, 2), (128, 128, 3, 1), (128, 64, 4, 2)
    ups = [after(up(*shape, True), shape[1]) for shape in shapes]
    return encoder, 1024, sequential(dense, *ups, [up(64, 3, 3, 1, True), Rescale(1 / 255)])


class VAE:
    def __init__(self, settings):
        self.settings, latent_dim = settings, settings["latent_dim"]
        self.encoder, features, self.decoder = {"A": vae_a, "D": vae_d}[settings["network"]](latent_dim)
        self.mean, self.log_variance = nn.Linear(features, latent_dim), nn.Linear(features, latent_dim)
        self.networks = {"encoder": [self.encoder, self.mean, self.log_variance], "decoder": [self.decoder]}
        self.optimizer = adam(chain(*self.networks.values()), settings["learning_rate"], settings["beta_1"])

    def draw(self, count):
        return [noise(self.settings, count)]

    def step(self, images, labels, noise):
        images = images.permute(0, 3, 1, 2).float() / 255.0
        x = self.encoder(images)
        mean, log_variance = self.mean(x), self.log_variance(x)
        outputs = self.decoder(mean + torch.exp(0.5 * log_variance) * noise[0])
        if self.settings["reconstruction"] == "bernoulli":
            reconstruction = F.binary_cross_entropy_with_logits(outputs, images, reduction="sum") / len(images)
        else:
            reconstruction = F.mse_loss(outputs, images)
        kl = 0.5 * (mean**2 + torch.exp(log_variance) - 1.0 - log_variance).sum(1).mean()
        loss = self.settings["weight"] * reconstruction + self.settings["kl_weight"] * kl
        update(self.optimizer, loss)
        return {"loss": loss, "kl": kl}


def dcgan_a(latent_dim):
    """Returns A's G and D."""
    g = from_point(latent_dim, 64)
    for i, o in ((64, 32), (32, 16)):
        g += [nn.BatchNorm2d(i), nn.ReLU(), up(i, o)]
    g += [nn.BatchNorm2d(16), nn.ReLU(), up(16, 1), nn.Tanh()]
    last = [nn.Conv2d(64, 1, 4, bias=False), nn.Flatten()]
    return nn.Sequential(*g), sequential(down(1, 16, norm=False), down(16, 32), down(32, 64), last)


def dcgan_b(latent_dim):
    g = from_point(latent_dim, 512)
    for i, o in pairwise((512, 256, 128, 64, 3)):
        g += [nn.BatchNorm2d(i), nn.LeakyReLU(0.2), up(i, o)]
    downs = [down(i, o, stride=s) for i, o, s in ((3, 64, 2), (64, 128, 2), (128, 256, 2), (256, 512, 4))]
    return nn.Sequential(*g, nn.Tanh()), sequential(*downs, [conv(512, 1, stride=4), nn.Flatten()])


def dcgan_c(latent_dim):
    downs = [down(i, o, 0.1, 5, bias=True) for i, o in pairwise((3, 32, 64, 128, 256))]
    d = sequential([Rescale(0.5, 0.5)], *downs, [Flatten(), nn.Linear(4096, 1)])
    return generator(latent_dim, (256, 128, 64, 32, 3), nn.ReLU(), bias=True), d


class DCGAN:
    def __init__(self, settings):
        self.settings = settings
        networks = {"A": dcgan_a, "B": dcgan_b, "C": dcgan_c}[settings["network"]]
        self.generator, self.discriminator = networks(settings["latent_dim"])
        self.networks = {"generator": [self.generator], "discriminator": [self.discriminator]}
        self.g_optimizer = adam([self.generator], settings["learning_rate"], 0.5)
        self.d_optimizer = adam([self.discriminator], settings["learning_rate"], 0.5)

    def draw(self, count):
        updates = self.settings["g_updates"]
        return [noise(self.settings, count) for _ in range(1 if updates == 1 else 1 + updates)]

    def step(self, images, labels, noise):
        with torch.set_grad_enabled(len(noise) == 1):
            fakes = self.generator(noise[0])
        d_loss = bce(1.0, self.discriminator(scaled(images))) + bce(0.0, self.discriminator(fakes.detach()))
        update(self.d_optimizer, d_loss)
        for z in noise[1:] or [None]:
            g_loss = bce(1.0, self.discriminator(fakes if z is None else self.generator(z)))
            update(self.g_optimizer, g_loss)
        return {"d_loss": d_loss, "g_loss": g_loss}


class ACGAN:
    def __init__(self, settings):
        self.settings = settings
        self.generator = generator(settings["latent_dim"] + 10, (64, 32, 16, 1), nn.LeakyReLU(0.2))
        self.discriminator = trunk(0.2)
        self.source, self.label = nn.Linear(1024, 1), nn.Linear(1024, 10)
        heads = [self.discriminator, self.source, self.label]
        self.networks = {"generator": [self.generator], "discriminator": heads}
        self.g_optimizer = adam([self.generator], settings["learning_rate"], 0.5)
        self.d_optimizer = adam(heads, settings["learning_rate"], 0.5)

    def draw(self, count):
        return [noise(self.settings, count)]

    def losses(self, source, images, labels):
        x = self.discriminator(images)
        return bce(source, self.source(x)) + F.cross_entropy(self.label(x), labels)

    def step(self, images, labels, noise):
        labels = labels.long()
        fakes = self.generator(torch.cat([noise[0], F.one_hot(labels, 10)], 1))
        d_loss = self.losses(1.0, scaled(images), labels) + self.losses(0.0, fakes.detach(), labels)
        update(self.d_optimizer, d_loss)
        g_loss = self.losses(1.0, fakes, labels)
        update(self.g_optimizer, g_loss)
        return {"d_loss": d_loss, "g_loss": g_loss}


class InfoGAN:
    def __init__(self, settings):
        self.settings, continuous = settings, settings["continuous"]
        self.generator = generator(settings["latent_dim"] + 10 + continuous, (64, 32, 16, 1), nn.LeakyReLU(0.1))
        self.discriminator, self.source = trunk(0.1), nn.Linear(1024, 1)
        self.q_hidden = nn.Sequential(nn.Linear(1024, 128), nn.LeakyReLU(0.01))
        self.q_categorical, self.q_continuous = nn.Linear(128, 10), nn.Linear(128, 2 * continuous)
        parts = [self.discriminator, self.source, self.q_hidden, self.q_categorical, self.q_continuous]
        self.networks = {"generator": [self.generator], "discriminator": parts}
        self.d_optimizer = adam(parts, settings["d_learning_rate"], 0.5)
        self.g_optimizer = adam([self.generator], settings["g_learning_rate"], 0.5)

    def draw(self, count):
        uniform, continuous = (torch.rand(count, self.settings[key]) * 2 - 1 for key in ("latent_dim", "continuous"))
        return [uniform, F.one_hot(torch.randint(10, [count]), 10).float(), continuous]

    def judge(self, fakes, categorical, continuous):
        """Returns the logit of being real, and Q's loss."""
        x = self.discriminator(fakes)
        q = self.q_hidden(x)
        mean, log_variance = self.q_continuous(q).chunk(2, 1)
        log_variance = log_variance.clamp(min=-2.0)
        bound = math.log(10) - F.cross_entropy(self.q_categorical(q), categorical.argmax(1))
        nll = 0.5 * (math.log(2 * math.pi) + log_variance + (continuous - mean) ** 2 * torch.exp(-log_variance))
        q_loss = -bound - self.settings["continuous_weight"] * (math.log(2) - nll.mean(0)).sum()
        return self.source(x), q_loss

    def step(self, images, labels, noise):
        _, *codes = noise = [x.flatten(1) for x in noise]
        fakes = self.generator(torch.cat(noise, 1))
        known, q_loss = self.judge(fakes.detach(), *codes)
        d_loss = bce(1.0, self.source(self.discriminator(scaled(images)))) + bce(0.0, known)
        update(self.d_optimizer, d_loss + q_loss)
        known, q_loss = self.judge(fakes, *codes)
        g_loss = bce(1.0, known)
        update(self.g_optimizer, g_loss + q_loss)
        return {"d_loss": d_loss, "g_loss": g_loss, "q_loss": q_loss}


def wgan_ours(latent_dim, width):
    """Returns G and the critic."""
    downs = [down(i, o, norm=False, bias=True) for i, o in pairwise((1, width, 2 * width, 4 * width))]
    critic = sequential(*downs, [Flatten(), nn.Linear(64 * width, 1)])
    return generator(latent_dim, (4 * width, 2 * width, width, 1), nn.LeakyReLU(0.2)), critic


def wgan_d(latent_dim, width):
    def same(i=width, o=width, size=3):
        return conv(i, o, size, 1, True)

    def active():
        return [nn.BatchNorm2d(width), nn.ReLU()]

    def pool():
        return nn.AvgPool2d(2)

    g = [nn.Linear(latent_dim, 16 * width), ToMap()]
    for _ in range(3):
        larger = nn.Upsample(scale_factor=2)
        g.append(Residual([*active(), larger, same(), *active(), same()], [larger]))
    g += [*active(), same(o=3), nn.Tanh()]
    critic = [Residual([same(3), nn.ReLU(), same(), pool()], [pool(), same(3, size=1)])]
    for last in ([pool()], [], []):
        critic.append(Residual([nn.ReLU(), same(), nn.ReLU(), same(), *last], last))
    critic += [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 1)]
    return nn.Sequential(*g), nn.Sequential(*critic)


class WGAN:
    def __init__(self, settings):
        self.settings = settings
        networks = {"ours": wgan_ours, "D": wgan_d}[settings["network"]]
        self.generator, self.critic = networks(settings["latent_dim"], settings["width"])
        self.networks = {"generator": [self.generator], "critic": [self.critic]}
        rates = settings["learning_rate"], settings["beta_1"], settings["beta_2"]
        self.g_optimizer, self.c_optimizer = adam([self.generator], *rates), adam([self.critic], *rates)

    def draw(self, count):
        updates = self.settings["batches_per_step"]
        count //= updates
        pairs = [(noise(self.settings, count), torch.rand(count, 1, 1, 1)) for _ in range(updates + 1)]
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
            penalty = (
                self.settings["weight"] * ((norm - self.settings["target"]).abs() ** self.settings["power"]).mean()
            )
            critic_loss = penalty - real_scores.mean() + fake_scores.mean()
            update(self.c_optimizer, critic_loss)
        g_loss = -self.critic(self.generator(last)).mean()
        update(self.g_optimizer, g_loss)
        return {"critic_loss": critic_loss, "g_loss": g_loss}


class Counter(TorchDispatchMode):
    """Counts FLOP like PyTorch's own FlopCounterMode, which can't handle second derivatives."""

    flop = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if count := flop_registry.get(function._overloadpacket):
            self.flop += count(*args, **(kwargs or {}), out_val=result)
        return result


class Torch:
    """The PyTorch side of the benchmark; `variant` is "eager" or "compile"."""

    def __init__(self, variant):
        self.variant = variant

    def load(self, script, row, weights, path):
        """Builds the model, copies Keras' weights into it, and reads the data at `path`.

        `weights`: kernels, biases, scales and offsets by network, in the order of its layers.
        """
        models = {"vae": VAE, "dcgan": DCGAN, "acgan": ACGAN, "infogan": InfoGAN, "wgan": WGAN}
        self.model = models[script](row["model"])
        self.size = row["batch_size"] * row["model"].get("batches_per_step", 1)
        with np.load(path) as data:
            self.images, self.labels = torch.from_numpy(data["images"]), torch.from_numpy(data["labels"])
        self.order, self.mirrored = torch.empty(0, dtype=torch.int64), row["model"]["network"] != "B"
        for name, parts in self.model.networks.items():
            parameters = list(chain.from_iterable(part.parameters() for part in parts))
            for parameter, array in zip(parameters, map(torch.from_numpy, weights[name]), strict=True):
                array = array.flip(0, 1) if array.ndim == 4 and self.mirrored else array
                array = array.permute({4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[array.ndim])
                assert parameter.shape == array.shape, name  # a copy would broadcast
                parameter.data.copy_(array)
            for part in parts:
                part.to(memory_format=torch.channels_last)
                # (A compiled critic would have no second derivative.)
                if self.variant == "compile" and name != "critic":
                    part.compile()

    def step(self, images, labels, draws):
        losses = self.model.step(images, labels, draws)
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def steps(self, batches):
        """Returns the losses of steps on the given images, labels and draws, all of them arrays."""
        losses = []
        for images, labels, draws in batches:
            images = torch.from_numpy(images)
            images = images.flip(1, 2) if self.mirrored else images
            losses.append(self.step(images, torch.from_numpy(labels), [*map(torch.from_numpy, draws)]))
        return losses

    def next_step(self):
        if len(self.order) < self.size:
            self.order = torch.randperm(len(self.images))
        batch, self.order = self.order[: self.size], self.order[self.size :]
        return self.step(self.images[batch], self.labels[batch], self.model.draw(self.size))

    def seconds(self, count):
        """Returns the seconds that `count` steps take."""
        begun = time.perf_counter()
        for _ in range(count):
            self.next_step()
        return time.perf_counter() - begun

    def gflop(self):
        """Returns the GFLOP of a step's convolutions and matrix products."""
        with Counter() as counter:
            self.next_step()
        return counter.flop / 1e9

    def peak(self):
        """Returns the GFLOP per second of a matrix product."""
        a = torch.randn(2048, 2048)
        return 2 * 2048**3 / min(timeit.repeat(lambda: a @ a, number=1, repeat=11)) / 1e9
