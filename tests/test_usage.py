"""What the scripts answer at once: --help, and command-line mistakes."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from scripts import MODULES, ROOT, call, is_one_line

from common import plan, usage
from common.files import UserError


@pytest.fixture
def no_tensorflow(tmp_path):
    """Environment variables with which importing TensorFlow fails."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "tensorflow.py").write_text("raise RuntimeError('imported')")
    return {"PYTHONPATH": str(tmp_path / "modules")}


@pytest.mark.parametrize("file", ["train.py", "test.py"])
@pytest.mark.parametrize("script", MODULES)
def test_help(script, file, tmp_path, no_tensorflow):
    code, out, err = call(tmp_path, f"{script}/{file}", "--help" if file == "train.py" else "-h", **no_tensorflow)
    assert (code, err) == (0, "")
    for name, row in MODULES[script].RUNS.items():
        line = next(line for line in out.splitlines() if line.split()[:1] == [name])
        assert row["dataset"] in line and f"{row['steps']:,} steps" in line
        assert all(source.split(",")[0] in line for source in row["reported"])
    assert all(name in out for name in usage.VARIABLES)


def test_help_into_a_pipe_that_is_closed():
    """As in `train.py --help | head -1`."""
    for command in ([sys.executable, ROOT / "vae" / "train.py"], [ROOT / "run_all.sh"]):
        reader, writer = os.pipe()
        os.close(reader)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        called = subprocess.run([*command, "--help"], env=os.environ | {"PATH": path}, stdout=writer, stderr=-1)
        os.close(writer)
        assert (called.returncode, called.stderr) == (0, b"")


def test_mistakes(tmp_path, no_tensorflow):
    for words, texts, variables in (
        (["dcgan/train.py", "MNIST"], ["did you mean mnist?"], {}),
        (["dcgan/test.py", "mnist_bais"], ["did you mean mnist_bias?"], {}),
        (["wgan/train.py", "--steps", "5"], ["--steps 5", *MODULES["wgan"].RUNS], {}),
        (["vae/train.py"], ["STEPS=many"], {"STEPS": "many"}),
        (["vae/train.py"], ["DATA_DIR"], {"DATA_DIR": str(tmp_path / "nowhere")}),
        (["vae/test.py"], ["no trained model", "train.py"], {}),
        (["vae/test.py"], ["no trained model in ~nosuch/"], {"RUNS_DIR": "~nosuch"}),
    ):
        code, _, err = call(tmp_path, *words, **no_tensorflow, **variables)
        is_one_line(code, err, *texts)
    with pytest.raises(UserError, match="did you mean mnist"):
        plan.choose(["vae", "MNITS"])


def test_variables_that_look_like_ours(monkeypatch, capsys):
    for name in ("STEP", "SEEDS", "DATADIR", "Run_dir", "XDG_DATA_DIRS"):
        monkeypatch.setenv(name, "1")
    usage.warn_of_variables()
    said = [line.split()[5].strip(";").upper() for line in capsys.readouterr().out.splitlines()]
    assert sorted(said) == ["DATADIR", "RUN_DIR", "SEEDS", "STEP"]


def test_the_rows_are_read_without_an_import(tmp_path):
    """Or not at all, if the file does more than define them."""
    for name, module in MODULES.items():
        assert usage.read_runs(ROOT / name / "train.py") == module.RUNS
    path, rows = tmp_path / "train.py", "RUNS = {'a': dict(steps=3 * 5)}\n"
    path.write_text(f"{rows}train(RUNS)\n")
    assert usage.read_runs(path) == {"a": {"steps": 15}}
    for text in (f"{rows}RUNS['b'] = {{}}\ntrain(RUNS)\n", "N = 3\nRUNS = {'a': N}\ntrain(RUNS)\n", "train(RUNS)\n"):
        path.write_text(text)
        assert usage.read_runs(path) is None


@pytest.mark.skipif(sys.platform != "linux", reason="takes away what Linux has")
def test_what_windows_lacks_is_not_needed(tmp_path):
    """Neither for training nor for run_all.sh; portalocker, which supports Windows itself, is left out here."""
    code = """
        import os, signal, sys, types
        import absl.logging, psutil  # which know the system they are on
        sys.modules |= {"fcntl": None, "portalocker": types.ModuleType("portalocker")}
        del signal.SIGHUP, os.sched_getaffinity, os.sched_setaffinity, os.posix_fallocate
        import common.run_all, common.training, common.evaluation
        with common.run_all.stop_signals() as came:
            signal.raise_signal(signal.SIGTERM)
        assert came == [signal.SIGTERM], came
    """
    (tmp_path / "windows.py").write_text(textwrap.dedent(code))
    code, out, err = call(tmp_path, tmp_path / "windows.py", PYTHONPATH=str(ROOT))
    assert (code, out, err) == (0, "", "")
