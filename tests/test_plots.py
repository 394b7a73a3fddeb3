import numpy as np
import pytest
from PIL import Image

from common import plots


def test_the_grids_corners_are_the_four_codes():
    codes = np.random.default_rng(0).normal(size=[4, 7])
    grid = plots.latent_grid(codes, np.linspace(0, 1, 10))
    assert grid.shape == (10, 10, 7)
    # Rows are y, columns are x: z(0, 0), z(K, 0), z(0, K), z(K, K).
    for code, corner in zip(codes, (grid[0, 0], grid[0, -1], grid[-1, 0], grid[-1, -1])):
        np.testing.assert_allclose(corner, code, atol=1e-12)


def test_the_grid_is_the_reports_formula_inside_and_outside():
    """z(x,0) = z1 + x/K (z2 - z1), z(x,K) = z3 + x/K (z4 - z3), z(x,y) = z(x,0) + y/K (z(x,K) - z(x,0))."""
    z1, z2, z3, z4 = codes = np.random.default_rng(1).normal(size=[4, 3])
    size = 4
    ticks = np.arange(-2, 7) / size
    grid = plots.latent_grid(codes, ticks)
    for i, y in enumerate(range(-2, 7)):
        for j, x in enumerate(range(-2, 7)):
            low, high = z1 + x / size * (z2 - z1), z3 + x / size * (z4 - z3)
            np.testing.assert_allclose(grid[i, j], low + y / size * (high - low), atol=1e-12)


@pytest.mark.parametrize("channels", [1, 3])
def test_sheet(channels):
    images = np.random.default_rng(0).integers(0, 256, [5, 4, 6, channels], np.uint8)
    sheet = plots.sheet(images, columns=3)
    assert sheet.shape == (12, 24, channels)
    for i, image in enumerate(images):
        top, left = 6 * (i // 3) + 1, 8 * (i % 3) + 1
        np.testing.assert_array_equal(sheet[top : top + 4, left : left + 6], image)


def test_gif(tmp_path):
    frames = [tmp_path / f"{i:03}.png" for i in range(60)]
    for i, frame in enumerate(frames):
        Image.fromarray(np.full([80, 80], 4 * i, np.uint8)).save(frame)
    plots.gif(frames, tmp_path / "training.gif")
    movie = Image.open(tmp_path / "training.gif")
    assert movie.n_frames == 20 and movie.size == (50, 50)
    first = np.asarray(movie.convert("L")).mean()
    assert movie.info["duration"] == 200
    movie.seek(19)
    assert movie.info["duration"] == 2000
    assert first == 0 and np.asarray(movie.convert("L")).mean() == pytest.approx(236, abs=2)


def test_gif_keeps_rare_colours(tmp_path):
    image = np.random.default_rng(0).integers(90, 166, [80, 80, 3], np.uint8)
    image[4:6, 4:6] = 255, 0, 0
    Image.fromarray(image).save(tmp_path / "000.png")
    plots.gif([tmp_path / "000.png"], tmp_path / "training.gif")
    red, green, blue = Image.open(tmp_path / "training.gif").convert("RGB").getpixel((4, 4))
    assert red > 240 and green < 20 and blue < 20


def test_gif_of_large_images(tmp_path):
    """The GIF has few frames, of 3x3 images each."""
    frames = [tmp_path / f"{i:03}.png" for i in range(60)]
    for i, frame in enumerate(frames):
        Image.fromarray(np.full([528, 528, 3], 4 * i, np.uint8)).save(frame)
    plots.gif(frames, tmp_path / "training.gif")
    movie = Image.open(tmp_path / "training.gif")
    assert movie.n_frames == 10 and movie.size == (198, 198)


def test_curves_leave_out_what_the_log_has_not(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: drawn.append(figure))
    log = [{"step": str(i), "loss": "1", "mse": "2"} for i in range(5)]
    plots.curves(log, {"loss": ["loss"], "nats": ["elbo"], "error": ["mse"]}, tmp_path / "curves.png", "title")
    assert [axis.get_ylabel() for axis in drawn[0].axes] == ["loss", "error"]


def draw_all(folder, scale):
    """Draws each figure from data that depends on `scale`; returns the files by name."""
    log = [{"step": str(i), "loss": str(i**-scale), "dev_loss": str(2 / i) if i == 3 else ""} for i in range(1, 6)]
    plots.curves(log, {"loss (nats)": ["loss"]}, folder / "curves.png", "title")
    images = np.full([4, 8, 8, 1], 50 * scale, np.uint8)
    plots.pictures({"a": images, "b": images}, folder / "pictures.png", "title")
    plots.pairs({"a": images, "b": images}, folder / "pairs.png", "title")
    codes = np.random.default_rng(scale).normal(size=[40, 5]).astype(np.float32)
    labels = {"digits": (np.arange(40) % 10, list("0123456789")), "even": (np.arange(40) % 2, ["even", "odd"])}
    plots.tsne(codes, labels, folder / "tsne.png", "{count} codes")
    draw = lambda z: np.full([len(z), 8, 8, 3], 50 * scale, np.uint8)  # noqa: E731
    plots.latent_grids(draw, codes[:4], np.linspace(-1, 2, 4), folder, "title", "four codes")
    plots.fid_by_step({"run": {0: 100.0, 10: 10.0 * scale}}, folder, "title")
    plots.compared({"run": log}, {"loss (nats)": "loss"}, folder / "compared.png", "title")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_codes_that_are_all_alike_have_a_map(tmp_path):
    plots.tsne(np.ones([40, 3], np.float32), {"digits": (np.arange(40) % 2, ["a", "b"])}, tmp_path / "tsne.png", "")
    assert (tmp_path / "tsne.png").stat().st_size > 1000


def test_figures_show_their_data(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    one, two = draw_all(tmp_path / "1", 1), draw_all(tmp_path / "2", 2)
    assert len(one) == 8
    assert all(one[name] != two[name] for name in one)


def test_runs_are_compared_by_their_dev_curves(tmp_path, monkeypatch):
    """One line per run, over the steps that have a value; lines, panels and figures without one are left out."""
    drawn = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: drawn.append(figure))
    logs = {
        name: [{"step": str(i), "kl": "9", "dev_kl": str(start + i) if i % 2 else ""} for i in range(6)]
        for name, start in (("one", 10), ("two", 20))
    }
    short = {"short": [{"step": "0", "kl": "9", "dev_kl": ""}]}
    plots.compared(short, {"KL": "kl"}, tmp_path / "compared.png", "title")
    plots.compared(logs | short, {"error": "mse", "KL": "kl"}, tmp_path / "compared.png", "title")
    ((axis,),) = (figure.axes for figure in drawn)
    assert axis.get_ylabel() == "KL" and [text.get_text() for text in axis.get_legend().get_texts()] == ["one", "two"]
    training, dev = axis.lines[::2], axis.lines[1::2]
    for line, start in zip(dev, (10, 20)):
        assert line.get_xydata().tolist() == [[i, start + i] for i in (1, 3, 5)]
    assert training[0].get_xydata().tolist() == [[i, 9] for i in (1, 3, 5)]


def test_a_single_dev_loss_is_visible(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: drawn.append(figure))
    for steps in ([2], [2, 4]):
        log = [{"step": str(i), "kl": "9", "dev_kl": str(i) if i in steps else ""} for i in range(6)]
        plots.curves(log, {"KL": ["kl"]}, tmp_path / "curves.png", "title")
        plots.compared({"run": log}, {"KL": "kl"}, tmp_path / "compared.png", "title")
        dev = [figure.axes[0].lines[-1] for figure in drawn]
        assert all(line.get_xdata().tolist() == steps for line in dev)
        assert [line.get_marker() for line in dev] == ["o" if len(steps) == 1 else ""] * 2
        drawn.clear()


def test_fid_by_step_of_several_runs(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: drawn.append(figure))
    for runs in ({"one": {0: 9.0, 5: 3.0}}, {"one": {0: 9.0, 5: 3.0}, "two": {0: 8.0, 4: 2.0}}):
        plots.fid_by_step(runs, tmp_path, "title")
        (axis,) = drawn.pop().axes
        assert [dict(line.get_xydata().tolist()) for line in axis.lines] == [*runs.values()]
        assert (axis.get_legend() is None) == (len(runs) == 1)


def test_the_running_mean(tmp_path, monkeypatch):
    """For 100 lines, the window is 2: each line is averaged with the one before it, except the first."""
    drawn = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: drawn.append(figure))
    raw = np.random.default_rng(0).normal(size=100)
    log = [{"step": str(i), "loss": str(value)} for i, value in enumerate(raw)]
    plots.curves(log, {"loss": ["loss"]}, tmp_path / "curves.png", "title")
    _, mean = drawn[0].axes[0].lines
    np.testing.assert_allclose(mean.get_ydata(), [raw[0], *(raw[:-1] + raw[1:]) / 2])
