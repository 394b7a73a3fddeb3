"""The tables and pages of made-up runs, and whether the repository's own match its results/."""

import re
from importlib import import_module

import pytest
from test_report import CELEBA, METRICS, make_run

from common import plots, report, tables
from common.files import ROOT, UserError


def make_results(folder):
    """Makes two seeds of a row, an unfinished row, a row of another model, and a damaged one; returns the rows."""
    make_run(folder / "vae" / "mnist_z3")
    make_run(folder / "vae" / "mnist_z3-seed1", seed=1, metrics=METRICS | {"FID (classifier)": 10.0})
    make_run(folder / "vae" / "celeba_z512", **CELEBA)
    make_run(folder / "dcgan" / "mnist", model="dcgan", run="mnist", own={"last tenth: d_real": 0.75})
    (make_run(folder / "vae" / "mnist_z10") / "metrics.json").write_text("{")
    return tables.read_rows(folder.glob("*/*/metrics.json"))


def cells(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_tables(tmp_path):
    rows = make_results(tmp_path / "results")
    written = {name: cells(tables.write(name, rows, tmp_path / "vae")) for name in [*tables.TABLES, *tables.QUESTIONS]}
    assert all(len({len(line) for line in table}) == 1 for table in written.values())
    z3, gan, faces = "[vae mnist_z3](../results/vae/mnist_z3)", "[dcgan mnist](../results/dcgan/mnist)", "CelebA"
    head, _, first, second, third, *real = written["results"]
    assert "FID (Inception)" not in head
    fid, same = "11.17 (10.00 to 12.35), 2 seeds", ["1.500", "0.500", "0.250", "0.125"]
    elbo = "dev ELBO (nats) -220.34"
    assert first == [z3, "MNIST", "25,000", fid, *same, elbo, "10"]
    assert second == [gan, "MNIST", "25,000", "12.35", *same, "-", "10"]
    assert third[1:4] == [faces, "300 of 25,000, measured: 200", "12.35"] and third[-2] == "test MSE 0.01000"
    assert [line[:4] for line in real] == [["real dev images", name, "-", "2.00"] for name in ("MNIST", faces)]
    assert written["summary"][2] == [z3, "25,000", fid, elbo]
    assert written["reports"][2:4] == [
        [z3, "25,000", "A, text", tables.REPORT_FID, "112.661", "not measured"],
        [z3, "25,000", "A, figure", "dev_loss at step 25,000", "271", "220.34"],
    ]
    assert written["seeds"][2] == [z3, "seed 0", "2", "-", "4.2", "220.3", "12.3", "-"]
    assert written["seeds"][4] == ["vae mnist_z3", "report A", "-", "-", "-", "271", "-", "112.661"]
    assert written["bias"][2:] == [[gan, "25,000", "12.3", "0.750", "-", "-"]]
    assert 'src="../results/vae/mnist_z3/samples.png"' in written["gallery"][2][1]
    assert cells(tables.write("results", [], tmp_path))[2:] == []


def test_a_step_measured_that_is_not_the_last(tmp_path):
    """Networks are older than the checkpoint if the best are kept, and newer after a kill between the two."""
    for measured in (200, 400):
        make_run(tmp_path / "vae" / f"{measured}", run=f"{measured}", steps=300, **{"step measured": measured})
    rows = tables.read_rows(tmp_path.glob("*/*/metrics.json"))
    assert [tables.progress(row) for row in rows] == [f"300 of 25,000, measured: {step}" for step in (200, 400)]


def test_order_of_rows(tmp_path):
    """By dataset, model, name with its numbers as numbers, and steps: the longest first."""
    names = ["vae mnist_z3", "vae mnist_z10", "dcgan mnist", "wgan cifar10_div", "vae celeba_z512"]
    for name in names:
        model, run = name.split()
        for steps in (60, 25_000):
            make_run(tmp_path / model / f"{run}-{steps}", model=model, run=run, steps=steps)
    rows = tables.read_rows(sorted(tmp_path.glob("*/*/metrics.json"), reverse=True))
    found = [(tables.called(row), row[0]["steps"]) for row in rows]
    assert found == [(name, steps) for name in names for steps in (25_000, 60)]


def test_pages(tmp_path):
    """Prose is left alone, and a model's page shows only that model; if one marker is wrong, no page is written."""
    make_results(tmp_path / "results")
    (tmp_path / "dcgan").mkdir()
    (tmp_path / "dcgan" / "train.py").touch()
    pages = tmp_path / "README.md", tmp_path / "dcgan" / "README.md"
    text = "above\n<!-- table: results -->\nold\n<!-- end -->\nbelow"
    for page in pages:
        page.write_text(text)
    for wrong in ("<!-- table: fid -->\n<!-- end -->", "<!-- table: bias -->\n<!-- table: bias -->\n<!-- end -->"):
        (tmp_path / "RESULTS.md").write_text(wrong)
        with pytest.raises(UserError, match=r"RESULTS\.md has a marker"):
            report.main(tmp_path / "runs", tmp_path)
        assert all(page.read_text() == text for page in pages)
    (tmp_path / "RESULTS.md").unlink()
    report.main(tmp_path / "runs", tmp_path)
    for page in pages:
        above, table, below = re.split("<!-- .* -->\n", page.read_text())
        assert (above, below) == ("above\n", "below") and "mnist" in table and "old" not in table
        assert ("vae" in table) == (page.parent == tmp_path)
    for figure in ("seeds", "compared_MNIST", "compared_CelebA"):
        assert (tmp_path / "results" / "vae" / f"{figure}.png").stat().st_size > 1000


def test_the_page_of_ones_own_runs(tmp_path):
    make_results(tmp_path)
    page = tmp_path / "RESULTS.md"
    report.write_page(page, [tmp_path / "vae" / "mnist_z3" / "metrics.json"], "Mine")
    assert page.read_text().startswith("# Mine\n\n## Results\n\n| experiment ")
    assert "(vae/mnist_z3)" in page.read_text() and "dcgan" not in page.read_text()
    assert '| all rows, MNIST | <img src="vae/compared_MNIST.png"' in page.read_text()


def test_runs_are_compared_in_one_figure_for_each_dataset(tmp_path, monkeypatch):
    """And for each STEPS. Of several seeds, the longest is shown; what is kept of others has only dev losses."""
    drawn = {}
    monkeypatch.setattr(plots, "compared", lambda logs, panels, path, title: drawn.update({path.name: logs}))
    make_run(tmp_path / "vae" / "mnist_z3")
    for name, log, changes in (
        ("mnist_z3-steps9", "step,loss,dev_loss\n9,1,2\n", {"steps": 9}),
        ("mnist_z3-seed1", "step,loss,dev_loss\n9,1,2\n", {"steps": 9, "seed": 1}),
        ("mnist_z64-seed1", "step,dev_loss\n9,2\n", {"run": "mnist_z64", "seed": 1}),
        ("mnist_z10", "step,loss,dev_loss\n9,1,2\n", {"run": "mnist_z10", "dataset": "5,000 MNIST digits"}),
    ):
        (make_run(tmp_path / "vae" / name, **changes) / "log.csv").write_text(log)
    make_run(tmp_path / "dcgan" / "mnist", model="dcgan", run="mnist")
    report.draw_compared(tables.read_rows(tmp_path.glob("*/*/metrics.json")), tmp_path)
    lengths = {name: {run: len(log) for run, log in logs.items()} for name, logs in drawn.items()}
    assert lengths == {
        "compared_MNIST.png": {"mnist_z3": 2500}, "compared_MNIST-steps9.png": {"mnist_z3": 1},
        "compared_5_000_MNIST_digits.png": {"mnist_z10": 1},
    }  # fmt: skip


def test_the_repository():
    """Its pages match results/, the files and rows that they name exist, and kept pictures are small."""
    rows = tables.read_rows((ROOT / "results").glob("*/[!~]*/metrics.json"))
    for page in report.pages(ROOT):
        text = page.read_text()
        assert report.fill(page, rows) == text, f"{page} is not up to date: python -m common.report"
        links = re.findall(r'(?:src="|\]\()(?!http|#)([^)"#]+)', text)
        for path in [*links, *re.findall(r'"(results/[^"]+)"', text)]:
            assert (page.parent / path).exists(), f"{page} names {path}"
    for path in (ROOT / "results").rglob("*.[pg][ni][gf]"):
        assert path.stat().st_size < report.LARGEST_PICTURE, path
    named = {tuple(name.split()) for names, _ in tables.QUESTIONS.values() for name in (*names, *tables.SEEDS)}
    for model, run in {(row[0]["model"], row[0]["run"]) for row in rows} | named:
        assert run in import_module(f"{model}.train").RUNS
