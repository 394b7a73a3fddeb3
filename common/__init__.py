"""Code shared by the scripts. Imported before TensorFlow, it hides the frameworks' start-up messages.

In this repository's train.py and test.py, importing it also handles --help and command-line mistakes.
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
    """Hides what C++ code writes to stderr, but shows it if an exception other than Ctrl-C is raised."""
    # TensorFlow's first messages ignore TF_CPP_MIN_LOG_LEVEL (tensorflow issue 100442).
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


# Python sets streams that the user closed to None, and the next file opened would take their place.
for _name in ("stdin", "stdout", "stderr"):
    if getattr(sys, _name) is None:
        setattr(sys, _name, open(os.devnull, "r+"))
# A name that the terminal's encoding lacks must not end the output.
with contextlib.suppress(AttributeError):  # a notebook's stdout
    sys.stdout.reconfigure(errors="backslashreplace")


def _on_error(kind, error, trace):
    """Suppresses the traceback of Ctrl-C during the import of the frameworks."""
    if kind is KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _on_error
usage.check_command_line()
# Keras warns that it won't shuffle a tf.data dataset; ours is shuffled already.
warnings.filterwarnings("ignore", "`shuffle=True` was passed")
# Keras doesn't know the length of a dataset distributed to several devices, and mistakes its end for an error.
warnings.filterwarnings("ignore", "Your input ran out of data")
# tensorflow-hub imports pkg_resources, which setuptools 82 drops; pyproject.toml requires an older version.
warnings.filterwarnings("ignore", "pkg_resources is deprecated")
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["MPLBACKEND"] = "Agg"  # a notebook exports its own backend, which needs an extra module
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# On some CPUs TensorFlow does not enable its faster convolutions by default.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
with silenced():
    import tensorflow as tf

    tf.config.list_physical_devices()
