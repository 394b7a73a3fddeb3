"""quickstart.ipynb, executed with few steps."""

import nbclient
import nbformat
from scripts import ROOT


def test_quickstart(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNS_DIR", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(ROOT / "quickstart.ipynb", 4)
    for cell in notebook.cells:
        cell.source = cell.source.replace("STEPS = 2000", "STEPS = 20")
    again = nbformat.v4.new_code_cell("%run vae/train.py")
    notebook.cells.append(again)
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT)}})
    client.kernel_name = "python3"
    client.execute()
    outputs = {cell.source: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    for source, found in outputs.items():
        said = "".join(output.get("text", "") for output in found)
        pictures = sum(
            "image/png" in output.get("data", {}) or "image/gif" in output.get("data", {}) for output in found
        )
        assert pictures == source.count("Image(") + source.count("array_to_img"), source
        if "train.py" in source:
            assert "done: " in said and said.count("\n") < 40, said  # no line per refresh of a progress bar
        if "test.py" in source:
            assert "FID (classifier)" in said and said.count("\n") < 60, said
