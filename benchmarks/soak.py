"""Watches the memory of a long training run: `python benchmarks/soak.py [minutes] [model]`.

Prints, for each tenth of the time, the step reached and the peak resident memory in MB. The run is not kept.
"""

import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / part) for part in ("", "tests")]
from scripts import start

from common import checkpoint


def main(minutes, model):
    with tempfile.TemporaryDirectory() as folder, open(Path(folder, "terminal"), "w+") as terminal:
        # (A pipe that nobody reads would fill up within the hour and block training.)
        process = start(Path(folder), f"{model}/train.py", output=terminal, STEPS="9999999")
        begun = time.monotonic()
        try:
            for part in range(1, 11):
                largest = 0
                while time.monotonic() - begun < minutes * 60 * part / 10:
                    status = Path(f"/proc/{process.pid}/status").read_text()
                    if "VmRSS:" not in status:
                        raise SystemExit(f"training ended: {Path(folder, 'terminal').read_text()}")
                    largest = max(largest, int(status.split("VmRSS:")[1].split()[0]) / 1024)
                    time.sleep(2)
                log = [line for path in Path(folder).glob("runs/*/*") for line in checkpoint.read_log(path)]
                step = int(log[-1]["step"]) if log else 0
                print(f"{minutes * part / 10:5.1f} min  step {step:>9,}  {largest:5.0f} MB", flush=True)
        finally:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main(float(sys.argv[1]) if sys.argv[1:] else 60, sys.argv[2] if sys.argv[2:] else "vae")
