"""What test.py compares with its numbers."""

import json

import numpy as np

from common import evaluation
from common.experiment import Experiment


def test_the_fid_is_shown_beside_that_of_the_rows_on_the_same_images(tmp_path):
    """These have the same SEED and STEPS; rows with other images, a damaged file or no file are left out."""
    runs = {name: {"dataset": "mnist"} for name in "abcdefg"}
    whole = {"dataset": "MNIST", "FID by step": {"0": 9.0, "10": 3.0}}
    texts = [json.dumps(whole), json.dumps(whole), json.dumps(whole | {"dataset": "5,000 MNIST digits"}), "{", "null"]
    for name, text in zip("abcde", texts):
        (tmp_path / f"{name}-seed1").mkdir()
        (tmp_path / f"{name}-seed1" / "metrics.json").write_text(text)
    (tmp_path / "f").mkdir()
    chosen = Experiment(tmp_path, "a", runs["a"], 1, 10, tmp_path / "a-seed1")
    beside = evaluation.siblings_fid(chosen, runs, "MNIST")
    assert beside == {name: {0: 9.0, 10: 3.0} for name in "ab"}


def test_the_reports_numbers_get_ours_beside_them():
    """Of a curve, a dev value at that very step, and else the mean of the last 782 steps."""
    log = [{"step": str(step), "mse": f"{step}", "dev_loss": f"{step / 2}" if step % 500 == 0 else ""}
           for step in sorted([*range(100, 2001, 100), 1218, 1219])]  # fmt: skip
    curves = {"mse": {2000: 1.0, 2100: 2.0}, "dev_loss": {1500: 3.0, 1600: 4.0}, "FID": 5.0, "unknown": 6.0}
    beside = evaluation.beside_reports({"A": curves, "B": {}}, {"FID": 7.0}, log)
    assert beside == {"A": {
        "mse at step 2,000": {"reported": 1.0, "ours": np.mean([1219, *range(1300, 2001, 100)])},
        "mse at step 2,100": {"reported": 2.0, "ours": None},
        "dev_loss at step 1,500": {"reported": 3.0, "ours": 750.0},
        "dev_loss at step 1,600": {"reported": 4.0, "ours": None},
        "FID": {"reported": 5.0, "ours": 7.0},
        "unknown": {"reported": 6.0, "ours": None},
    }, "B": {}}  # fmt: skip
