"""Files are whole or not there."""

import os

import pytest

from common.files import atomic_write


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
