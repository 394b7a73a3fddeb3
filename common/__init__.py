"""What the scripts share. Imported before TensorFlow, it keeps the frameworks' start-up messages from the terminal.

In a train.py or test.py of this folder, importing it answers --help and mistakes of the command line.
"""

import contextlib
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator

from common import usage


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Keeps what C++ code writes to stderr from the terminal, and shows it if an exception passes, but for Ctrl-C."""
    # TensorFlow's first messages heed no TF_CPP_MIN_LOG_LEVEL (tensorflow issue 100442).
    sys.stderr.flush()
    terminal = os.dup(2)
    try:
        file = tempfile.TemporaryFile()
    except OSError:  # all disks are full
        file = open(os.devnull, "r+b")
    with file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        except Exception:
            file.seek(0)
            os.write(terminal, file.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


# Where the user closed them, Python has None, and the next file opened would be taken for them.
for _name in ("stdin", "stdout", "stderr"):
    if getattr(sys, _name) is None:
        setattr(sys, _name, open(os.devnull, "r+"))


def _on_error(kind, error, trace):
    """Ctrl-C while the frameworks are imported needs no traceback."""
    if kind is KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _on_error
usage.check_command_line()
# Keras warns that a tf.data dataset will not be shuffled again; it is shuffled.
warnings.filterwarnings("ignore", "`shuffle=True` was passed")
# Keras can't tell the length of a dataset that several devices share, and takes its end for a mistake.
warnings.filterwarnings("ignore", "Your input ran out of data")
# tensorflow-hub imports what setuptools is to drop; pyproject.toml keeps a version that has it.
warnings.filterwarnings("ignore", "pkg_resources is deprecated")
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["MPLBACKEND"] = "Agg"  # a notebook's, which it exports, needs a module of its own
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# On some CPUs TensorFlow leaves its faster convolutions off.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
with silenced():
    import tensorflow as tf

    tf.config.list_physical_devices()
