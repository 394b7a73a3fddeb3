"""The networks, noise and optimizers of all rows, at full size, are those of the reports; other images are refused."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from scripts import MODULES, SCRIPTS

SHAPES = {"mnist": (32, 32, 1), "mnist_padded": (32, 32, 1), "cifar10": (32, 32, 3), "celeba": (64, 64, 3)}
CUT = 0.8796256610342398  # the standard deviation of N(0, 1) truncated at -2 and 2


def torch(layer):
    """Returns the standard deviation of a layer's initial weights and their bound, or None if there is none.

    This is PyTorch's default, U(-1, 1) / sqrt(fan-in); transposed convolutions count the output channels for it.
    """
    bound = math.prod(layer.kernel.shape[:-1]) ** -0.5
    return bound / 3**0.5, bound


def xavier(layer):
    """Uniform, with a gain of sqrt(2) in a convolution and 1 in a dense layer."""
    *size, fan_in, fan_out = layer.kernel.shape
    bound = (6 * (2 if size else 1) / (fan_in + fan_out) / math.prod(size)) ** 0.5
    return bound / 3**0.5, bound


def he(layer):
    std = (2 / math.prod(layer.kernel.shape[:-1])) ** 0.5
    return std, 2 * std / CUT


def normal(layer):
    return 0.02, None


def truncated(layer):
    return 0.02 * CUT, 0.04


# By report: the initial kernels, and the initial biases and batch norm scales where they are not 0 and 1.
A, B, C = dict(kernel=normal, gamma=normal), dict(kernel=normal), dict(kernel=normal, Conv2D=truncated)
TORCH, XAVIER = dict(kernel=torch, bias=torch), dict(kernel=xavier)
D = dict(kernel=normal, Dense=torch, Dense_bias=torch, gamma=normal)
OURS = dict(kernel=xavier, Conv2D=he, Conv2DTranspose=normal)

# The noise; the first layer's input for black and for white; the optimizers' learning rates, beta_1 and beta_2.
VAE, VAE_C = ("normal", (0, 1), [1e-3], 0.9, 0.999), ("normal", (0, 1), [2e-4], 0.5, 0.999)
VAE_B, VAE_D = ("normal", (0, 1), [5e-4], 0.9, 0.999), ("normal", (0, 255), [1e-4], 0.9, 0.999)
GAN, GAN_B = (("normal", (-1, 1), [rate] * 2, 0.5, 0.999) for rate in (2e-4, 5e-4))
GAN_C, INFO_C = (("uniform", (0, 1), [2e-4] * count, 0.5, 0.999) for count in (2, 3))
WGAN, WGAN_C = ("normal", (-1, 1), [2e-4] * 2, 0.0, 0.9), ("uniform", (-1, 1), [2e-4] * 2, 0.5, 0.999)
# The number of parameters of encoder and decoder, or of generator and discriminator, None where no report has them.
ROWS = {
    ("vae", "mnist_z3"): (24_864, 22_765, TORCH, *VAE),
    ("vae", "mnist_z10"): (39_592, 30_031, TORCH, *VAE),
    ("vae", "mnist_z64"): (166_384, 89_377, TORCH, *VAE),
    ("vae", "mnist_z100"): (263_872, 132_181, TORCH, *VAE),
    **{("vae", f"cifar10_beta{beta}"): (1_364_456, 6_747_267, D, *VAE_D) for beta in (2, 4, 6)},
    **{("vae", f"celeba_z512{kl}"): (5_274_368, 2_792_099, C, *VAE_C) for kl in ("", "_weak_kl")},
    ("vae", "celeba_z128"): (20_829_568, 12_641_283, TORCH, *VAE_B),
    ("dcgan", "mnist_padded"): (143_840, 42_432, A, *GAN),
    ("dcgan", "mnist"): (143_840, 42_432, A, *GAN),
    ("dcgan", "mnist_bias"): (143_953, 42_432, A, *GAN),
    ("dcgan", "mnist_wide"): (1_705_400, 42_432, A, *GAN),
    ("dcgan", "mnist_wide_bias"): (1_706_101, 42_432, A, *GAN),
    ("dcgan", "celeba_z100"): (1_104_547, 1_083_137, C, *GAN_C),
    ("dcgan", "celeba_z128"): (3_806_080, 2_765_696, B, *GAN_B),
    ("acgan", "mnist_padded"): (None, None, A, *GAN),
    ("acgan", "celeba_smiling"): (1_108_643, 1_087_234, C, *GAN_C),
    ("acgan", "celeba_male"): (3_576_704, 3_281_859, B, *GAN),
    ("infogan", "mnist_padded"): (None, None, B, "uniform", (-1, 1), [1e-3, 1e-3], 0.5, 0.999),
    ("infogan", "celeba_cat5x10"): (1_161_891, 1_614_259, C, *INFO_C),
    ("infogan", "celeba_cat10_cont2"): (998_051, None, C, *INFO_C),
    ("wgan", "mnist"): (None, None, OURS, *WGAN),
    **{("wgan", f"cifar10_{penalty}"): (1_154_947, 1_037_313, XAVIER, *WGAN) for penalty in ("div", "gp")},
    **{("wgan", f"cifar10_{penalty}_small"): (122_851, 65_793, XAVIER, *WGAN) for penalty in ("div", "gp")},
    ("wgan", "celeba_gp"): (1_104_547, 1_083_137 - 960, C, *WGAN_C),  # like C's GAN, but without batch norm in D
}
# Batch size, steps and what else the tests of the losses and networks do not pin.
FIVE, DIV, GP = dict(batches_per_step=5), dict(target=0, weight=2, power=6), dict(target=1, weight=10, power=2)
SETTINGS = {
    **{("vae", f"mnist_z{size}"): (32, 25_000, {}) for size in (3, 10, 64, 100)},
    **{("vae", f"cifar10_beta{beta}"): (64, 39_100, {}) for beta in (2, 4, 6)},
    **{("vae", f"celeba_z512{kl}"): (64, 125_000, dict(keep="dev_loss")) for kl in ("", "_weak_kl")},
    ("vae", "celeba_z128"): (32, 12_250, {}),
    **{("dcgan", name): (64, 25_000, dict(g_updates=1)) for name in
       ("mnist_padded", "mnist", "mnist_bias", "mnist_wide", "mnist_wide_bias")},
    ("dcgan", "celeba_z100"): (64, 187_500, dict(g_updates=2)),
    ("dcgan", "celeba_z128"): (8, 55_000, dict(g_updates=1)),
    ("acgan", "mnist_padded"): (64, 25_000, dict(labels="class", label_dim=10)),
    ("acgan", "celeba_smiling"): (64, 187_500, dict(labels="Smiling", label_dim=1)),
    ("acgan", "celeba_male"): (8, 115_000, dict(labels="Male", label_dim=2)),
    ("infogan", "mnist_padded"): (64, 25_000, dict(categorical=1, continuous=2, continuous_weight=0.1)),
    ("infogan", "celeba_cat5x10"): (64, 187_500, dict(categorical=5, continuous=0)),
    ("infogan", "celeba_cat10_cont2"): (64, 187_500, dict(categorical=1, continuous=2, continuous_weight=0.1)),
    ("wgan", "mnist"): (64, 10_000, FIVE | DIV),
    **{("wgan", f"cifar10_{name}"): (64, 10_000, FIVE | penalty) for name, penalty in
       (("div", DIV), ("div_small", DIV), ("gp", GP), ("gp_small", GP))},
    ("wgan", "celeba_gp"): (64, 50_000, FIVE | GP),
}  # fmt: skip
# What `words` returns for the two networks, by script and by the report whose they are.
G_C, D_C = "dense " + "norm relu up4/2 " * 4 + "tanh", "conv5/2 norm leaky0.1 " * 4
G_B, G_OURS = "up4/2v norm {0} " + "up4/2 norm {0} " * 3 + "up4/2 tanh", "dense " + "norm leaky{0} up4/2 " * 3 + "tanh"
D_OURS = "conv4/2 leaky{0} " + "conv4/2 norm leaky{0} " * 2
LAYERS = {
    ("vae", "A"): (
        "conv3/1 relu conv3/2 relu conv3/1 relu conv3/2 relu dense relu dense dense",
        "dense relu dense up3/2 relu up3/1 relu up3/2 relu up3/1",
    ),
    ("vae", "B"): (
        "conv3/1 relu conv3/1 relu max " + "conv5/1 relu conv5/1 relu max " * 2 + "dense dense",
        "dense up4/2 relu up4/2 relu up4/2",
    ),
    ("vae", "C"): (
        "conv5/2 norm leaky0.01 " * 4 + "dense dense",
        "dense " + "norm leaky0.01 up4/2 " * 4,
    ),
    ("vae", "D"): (
        "conv4/2 relu norm conv4/2 relu norm conv3/1 relu norm conv4/2 relu norm conv4/1v relu norm dense dense dense",
        "dense relu dense relu " + "up4/2 relu norm up3/1 relu norm " * 2 + "up4/2 relu norm up3/1",
    ),
    ("dcgan", "A"): (
        "up4/2v norm relu " + "up4/2 norm relu " * 2 + "up4/2 tanh",
        "conv4/2 leaky0.2 " + "conv4/2 norm leaky0.2 " * 2 + "conv4/1v",
    ),
    ("dcgan", "B"): (
        G_B.format("leaky0.2"),
        "conv4/2 norm leaky0.2 " * 3 + "pad conv4/4v norm leaky0.2 pad conv4/4v",
    ),
    ("dcgan", "C"): (G_C, D_C + "dense"),
    ("acgan", "ours"): (G_OURS.format(0.2), D_OURS.format(0.2) + "dense dense"),
    ("acgan", "B"): (G_B.format("relu"), "conv4/2 leaky0.2 " + "conv4/2 norm leaky0.2 " * 3 + "conv4/1v dense dense"),
    ("acgan", "C"): (G_C, D_C + "dense dense"),
    ("infogan", "ours"): (G_OURS.format(0.1), D_OURS.format(0.1) + "dense leaky0.01 dense dense dense"),
    ("infogan", "C"): (G_C, D_C + "dense norm leaky0.01 dense dense"),
    ("wgan", "ours"): (G_OURS.format(0.2), "conv4/2 leaky0.2 " * 3 + "dense"),
    ("wgan", "C"): (G_C, "conv5/2 leaky0.1 " * 4 + "dense"),
    ("wgan", "D"): (  # in Keras' order, by depth; one layer halves the image wherever that is done
        "dense " + "norm relu nearest conv3/1 norm relu conv3/1 add " * 3 + "norm relu conv3/1 tanh",
        "conv3/1 relu mean conv3/1 conv1/1 add " + "relu conv3/1 relu conv3/1 add " * 3 + "relu means dense",
    ),
}  # fmt: skip


def words(network):
    """Returns a word per layer and activation, with a convolution's size and strides; "v" for "valid" padding."""
    kinds = {
        "Conv2D": "conv", "Conv2DTranspose": "up", "BatchNormalization": "norm", "MaxPooling2D": "max", "Add": "add",
        "AveragePooling2D": "mean", "GlobalAveragePooling2D": "means", "UpSampling2D": "nearest", "Dense": "dense",
        "ZeroPadding2D": "pad", "ReLU": "relu", "LeakyReLU": "leaky",
    }  # fmt: skip
    found = []
    for layer in network.layers:
        kind = kinds.get(type(layer).__name__, "")
        if kind in ("conv", "up"):
            kind += f"{layer.kernel_size[0]}/{layer.strides[0]}{'v' if layer.padding == 'valid' else ''}"
        if kind == "leaky":
            kind += f"{layer.negative_slope:g}"
        activation = getattr(layer, "activation", keras.activations.linear).__name__
        found += [kind] if kind else []
        found += [activation] if activation != "linear" else []
    return found


@pytest.fixture(scope="module", params=[(script, name) for script in MODULES for name in MODULES[script].RUNS], ids=str)
def built(request):
    """A row's key in ROWS, the script's module and the model, built once for all tests."""
    script, name = request.param
    row = MODULES[script].RUNS[name]
    return request.param, MODULES[script], MODULES[script].build(SHAPES[row["dataset"]], **row["model"])


def test_parameters(built):
    found = [sum(math.prod(x.shape) for x in network.trainable_variables) for network in built[2].layers]
    assert [count for count, known in zip(found, ROWS[built[0]]) if known] == [x for x in ROWS[built[0]][:2] if x]


def test_settings():
    assert SETTINGS.keys() == ROWS.keys()
    for (script, name), (batch_size, steps, others) in SETTINGS.items():
        row = MODULES[script].RUNS[name]
        found = row | row["model"]
        assert (row["batch_size"], row["steps"]) == (batch_size, steps), name
        assert row["dataset"] in (name, name.partition("_")[0]), name
        assert {key: found[key] for key in others} == others and row.get("keep") == others.get("keep"), name


def test_layers(built):
    (script, name), module, model = built
    network = module.RUNS[name]["model"]["network"]
    first, second = LAYERS[script, network]
    if (script, name) == ("infogan", "celeba_cat10_cont2"):
        second += " dense"  # Q's means and variances
    assert [words(network) for network in model.layers] == [first.split(), second.split()]
    norms = [x for network in model.layers for x in network.layers if isinstance(x, layers.BatchNormalization)]
    assert {(x.momentum, x.epsilon) for x in norms} <= {(0.9, 1e-5)}


def test_initial_weights(built):
    rules, begins = ROWS[built[0]][2], []
    for layer in (layer for network in built[2].layers for layer in network.layers):
        kind = type(layer).__name__
        defaults = {"kernel": rules.get(kind, rules["kernel"]), "bias": rules.get(f"{kind}_bias", rules.get("bias"))}
        for name in ("kernel", "bias", "gamma", "beta"):
            if getattr(layer, name, None) is None:
                continue
            rule = defaults.get(name, rules.get(name))
            values = getattr(layer, name).numpy().ravel() - (name == "gamma")
            std, bound = rule(layer) if rule else (0, 0)
            error = 4 / len(values) ** 0.5  # about five standard errors
            assert values.std() == pytest.approx(std, rel=error, abs=1e-9) or len(values) < 16, layer.path
            assert abs(values.mean()) <= error * std and (bound is None or np.abs(values).max() <= bound * 1.001)
            assert bound is not None or len(values) < 500 or np.abs(values).max() > 2.2 * std  # not truncated
            if rule and len(values) > 3:
                begins.append(tuple((values[:4] / values[0]).round(3)))
    assert len(begins) == len({*begins}) > 4  # layers that share an initializer would begin alike


def test_noise(built, monkeypatch):
    """Checks the noise of `generate`; the tests of the steps check theirs."""
    key, module, model = built
    monkeypatch.setattr(module, "to_uint8", lambda network, noise, *labels: noise)
    noise = module.generate(next(iter(model.networks().values())), 5_000, 0)
    noise = np.asarray(noise[0] if key[0] == "infogan" else noise)
    uniform = ROWS[key][3] == "uniform"
    assert noise.std(0) == pytest.approx(3**-0.5 if uniform else 1, abs=0.05) and np.abs(noise.mean(0)).max() < 0.07
    assert (np.abs(noise).max() <= 1) == uniform and np.abs(np.corrcoef(noise.T) - np.eye(noise.shape[1])).max() < 0.1


def test_images(built, monkeypatch):
    """They depend on the seed, and not on each other, as the network is in inference mode."""
    _, module, model = built
    network, to_uint8 = next(iter(model.networks().values())), module.to_uint8
    images = module.generate(network, 3, 0)
    assert images.shape == (3, *network.output_shape[1:]) and images.dtype == np.uint8
    np.testing.assert_array_equal(images, module.generate(network, 3, 0))
    other = module.generate(network, 3, 1)
    assert (images != other).any() or not (images.any() or other.any())  # black: D's VAE, untrained
    monkeypatch.setattr(module, "to_uint8", lambda network, *inputs: inputs)
    inputs, others = (keras.tree.map_structure(lambda x: x[:1], module.generate(network, 3, seed)) for seed in (0, 1))
    assert (keras.tree.flatten(inputs)[0] != keras.tree.flatten(others)[0]).numpy().all()  # the noise
    np.testing.assert_allclose(to_uint8(network, *inputs).astype(int), images[:1], atol=1)


def test_first_layer_and_optimisers(built):
    key, _, model = built
    seen, rates, *betas = ROWS[key][4:]
    reader = model.layers[0 if key[0] == "vae" else 1]
    first = next(layer for layer in reader.layers if isinstance(layer, layers.Conv2D))
    black, white = (np.full([1, *reader.input_shape[1:]], x, np.float32) for x in (-(key[0] != "vae"), 1))
    values = keras.Model(reader.inputs[0], first.input)(np.concatenate([black, white])).numpy()
    np.testing.assert_allclose([values.min((1, 2, 3)), values.max((1, 2, 3))], [seen, seen], atol=1e-6)
    found = [x for x in vars(model).values() if isinstance(x, keras.optimizers.Optimizer)]
    assert {type(x).__name__ for x in found} == {"Adamax" if key == ("vae", "celeba_z128") else "Adam"}
    assert sorted(float(x.learning_rate) for x in found) == pytest.approx(rates)
    assert all([float(x.beta_1), float(x.beta_2)] == betas for x in found)


@pytest.mark.parametrize("script", SCRIPTS)
def test_images_of_another_size_or_type_are_refused(script):
    """Floats would be scaled to another range than the one they have."""
    module = MODULES[script]
    settings = next(iter(module.RUNS.values()))["model"]
    with pytest.raises(ValueError, match=r"for images of \(32, 32, 1\), not \(28, 28, 1\)"):
        module.build((28, 28, 1), **settings)
    images, labels = np.zeros([20, 32, 32, 1], np.float32), np.zeros(20, int)
    model = module.build((32, 32, 1), **settings)
    for step in (model.train_step, model.test_step) if script in ("vae", "wgan") else (model.train_step,):
        with pytest.raises(TypeError, match="uint8"):
            step((images, labels) if script == "acgan" else images)


def test_images_without_channels_are_refused():
    """As many as they have rows would be broadcast against each other."""
    model = MODULES["vae"].build((32, 32, 1), **MODULES["vae"].RUNS["cifar10_beta2"]["model"])
    with pytest.raises(ValueError, match="rank 4"):
        model.train_step(tf.zeros([32, 32, 32], tf.uint8))
