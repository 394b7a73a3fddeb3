"""Checkpoints and logs: damaged, of another run, or too large for the disk."""

import json
import os
import re

import h5py
import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from scripts import MODULES, ROOT, SCRIPTS, is_one_line, train_here

import vae.train
from common import archives, checkpoint, experiment
from common.checkpoint import CHECKPOINT, State
from common.files import UserError

IMAGES = {"images": "images", "fingerprint": "of them"}


@hypothesis.given(choice=st.data())
def test_any_edit_of_a_row_is_noticed(monkeypatch, tmp_path, choice):
    """Edits between a checkpoint and the next call are noticed, except those of `reported`."""
    monkeypatch.setenv("RUNS_DIR", str(tmp_path))
    script = choice.draw(st.sampled_from(SCRIPTS))
    runs = MODULES[script].RUNS
    name = choice.draw(st.sampled_from([*runs]))
    chosen = experiment.named(ROOT / script, runs, name)
    chosen.folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(chosen.folder / CHECKPOINT, "w") as file:
        file.attrs["state"] = json.dumps(
            checkpoint.begin(chosen._replace(folder=tmp_path), IMAGES)._replace(step=7)._asdict()
        )
    assert checkpoint.begin(chosen._replace(row=chosen.row | {"reported": "other"}), IMAGES).step == 7
    key = choice.draw(st.sampled_from([key for key in chosen.row if key != "reported"]))
    value = choice.draw(st.none() | st.integers(-3, 1000) | st.floats(0, 1) | st.text(max_size=3) | st.booleans())
    edits = [chosen.row | {"new": 1}, {k: v for k, v in chosen.row.items() if k != key}]
    edits += [chosen.row | {key: value}] if value != chosen.row[key] else []
    for row in edits:
        with pytest.raises(UserError, match="another (new|" + re.escape(key) + "), or by another version"):
            checkpoint.begin(chosen._replace(row=row), IMAGES)
    with pytest.raises(UserError, match="another seed"):
        checkpoint.begin(chosen._replace(seed=1), IMAGES)
    with pytest.raises(UserError, match="was trained on images, but here is others"):
        checkpoint.begin(chosen, {"images": "others"})


def test_a_checkpoint_fits_in_the_room_reserved_for_it(tmp_path, monkeypatch):
    """Of the model with most optimizers: HDF5 would crash on a full disk."""
    reserved = []
    monkeypatch.setattr(os, "posix_fallocate", lambda file, start, size: reserved.append(size), raising=False)
    row = MODULES["infogan"].RUNS["celeba_cat5x10"]
    checkpoint.save_checkpoint(
        MODULES["infogan"].build((64, 64, 3), **row["model"]), State(1, 1.0, row, 0), tmp_path, networks=False
    )
    assert 0.9 * reserved[0] < (tmp_path / CHECKPOINT).stat().st_size <= reserved[0]


def test_a_file_that_cannot_be_opened_is_not_called_damaged(tmp_path, monkeypatch):
    """For if it were deleted, as a damaged one should be, its contents would be lost."""
    (tmp_path / "x.keras").mkdir()
    for read in (checkpoint.load_network, checkpoint.network_step):
        with pytest.raises(IsADirectoryError):
            read(tmp_path / "x.keras")
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "missing.keras")

    def fill(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "out of memory")

    (tmp_path / "y.keras").touch()
    monkeypatch.setattr(checkpoint.keras.saving, "load_model", fill)
    with pytest.raises(tf.errors.ResourceExhaustedError):
        checkpoint.load_network(tmp_path / "y.keras")

    def refuse(*_, **__):
        raise PermissionError

    monkeypatch.setattr(archives.np, "load", refuse)
    with pytest.raises(PermissionError):
        archives.read_npz(tmp_path / "mnist.npz")


@hypothesis.given(at=st.integers(0, 1 << 40), bit=st.integers(0, 7))
def test_any_damage_to_a_checkpoint_is_seen(tmp_path, at, bit):
    """Whichever bit of it flips, it is refused with one line, or its weights are the same."""
    model = keras.Sequential([keras.Input([2]), keras.layers.Dense(2)])
    whole = tmp_path / "whole"
    if not whole.exists():
        whole.mkdir()
        checkpoint.save_checkpoint(model, State(7, 0.0, {}, 0), whole, networks=False)
        np.savez(whole / "weights.npz", *model.get_weights())
    content = bytearray((whole / CHECKPOINT).read_bytes())
    content[at % len(content)] ^= 1 << bit
    (tmp_path / CHECKPOINT).write_bytes(content)
    try:
        checkpoint.load_checkpoint(model, checkpoint.read_state(tmp_path), tmp_path)
    except UserError as error:
        assert len(str(error).splitlines()) == 1
        return
    for ours, theirs in zip(model.get_weights(), np.load(whole / "weights.npz").values(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_log_that_is_damaged_is_named(tmp_path):
    """Except for a last line that was cut short, which is ignored."""
    path = tmp_path / "log.csv"
    path.write_text("step,loss,dev\n10,0.5,\n20,0.25,0.5\n30,0.1")
    assert [row["step"] for row in checkpoint.read_log(tmp_path)] == ["10", "20"]
    for line in ("30,0.1", "3O,0.1,", "30,0.1,1,2", "30,O.1,"):
        path.write_text(f"step,loss,dev\n10,0.5,\n{line}\n40,0.1,\n")
        with pytest.raises(UserError, match=r"log\.csv is damaged in line 3"):
            checkpoint.read_log(tmp_path)


def test_a_log_that_does_not_fit_the_checkpoint(monkeypatch, tmp_path, capsys):
    """A log with other columns is refused; if it is gone, a message says what the curves lack."""
    folder = tmp_path / "vae" / "mnist_z100-steps25"
    assert train_here(monkeypatch, tmp_path, vae.train, STEPS="25") == 0
    with h5py.File(folder / CHECKPOINT, "a") as file:  # as if it had been stopped
        state = json.loads(file.attrs["state"]) | {"step": 24}
        file.attrs["state"] = json.dumps(state)
    text = (folder / "log.csv").read_text()
    (folder / "log.csv").write_text(text.replace("kl", "divergence"))
    code = train_here(monkeypatch, tmp_path, vae.train, STEPS="25")
    is_one_line(code, capsys.readouterr().err, folder / "log.csv", "other columns")
    (folder / "log.csv").unlink()
    assert train_here(monkeypatch, tmp_path, vae.train, STEPS="25") == 0
    assert f"{folder / 'log.csv'} lacks steps before 24" in capsys.readouterr().out
    assert [row["step"] for row in checkpoint.read_log(folder)] == ["25"]
