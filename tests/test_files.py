"""Files are whole or not there; what is said reaches the terminal, or nobody."""

import os
import sys
import tempfile

import pytest
from scripts import is_one_line

import common
from common.files import atomic_write, one_line_errors, say


def test_a_file_is_replaced_in_one_stroke(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with atomic_write(path) as draft:
        draft.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("error", [ValueError("ours"), KeyboardInterrupt(), OSError(28, "full"), OSError("full")])
def test_an_error_leaves_the_file_alone(error, tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(type(error)) as raised, atomic_write(path) as draft:
        draft.write_text("half")
        raise error
    assert path.read_text() == "old" and [*tmp_path.iterdir()] == [path]
    if isinstance(error, OSError) and error.errno:
        assert raised.value.filename == str(path)  # a full disk's error does not name it
    elif isinstance(error, OSError):
        assert str(raised.value) == "full"  # as NumPy raises it


def test_drafts_of_killed_processes_go_after_an_hour(tmp_path):
    for number, age in ((1, 4000), (2, 100)):
        left = tmp_path / f"~{number}-file"
        left.write_text("half")
        os.utime(left, (left.stat().st_mtime - age,) * 2)
    with atomic_write(tmp_path / "file") as draft:
        draft.write_text("new")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "~2-file"}


def test_saying_to_nobody(monkeypatch):
    for gone in (None, open(os.devnull)):  # no stdout, and one that is read-only
        monkeypatch.setattr(sys, "stdout", gone)
        say("a line")
        say("another")


@pytest.mark.parametrize("error", [OSError(28, "full"), OSError(30, "read-only", "curves.png")])
def test_a_figure_that_cannot_be_written_gets_one_line(error, capsys):
    with pytest.raises(SystemExit) as stop, one_line_errors():
        raise error
    is_one_line(stop.value.code, capsys.readouterr().err, error.filename or "a file", "mend that")


def test_other_errors_are_not_hidden():
    with pytest.raises(OSError, match="ours"), one_line_errors():
        raise OSError("ours")


def test_messages_are_kept_from_the_terminal_where_all_disks_are_full(monkeypatch, capfd):
    def full():
        raise FileNotFoundError(2, "No usable temporary directory")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with common.silenced():
        os.write(2, b"noise")
    assert capfd.readouterr().err == ""


def test_ctrl_c_while_the_frameworks_are_imported(capsys):
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err == "stopped\n"
    sys.excepthook(ValueError, ValueError("ours"), None)
    assert "ValueError: ours" in capsys.readouterr().err
