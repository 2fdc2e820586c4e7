"""The notebook in docs/: it runs from top to bottom, and what is committed of it is small and names no machine."""

import os
import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
PATH = ROOT / "docs" / "first-dissection.ipynb"


def printed(notebook):
    """What each cell of code printed or showed as text."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [
        "".join(str(each.get("text") or each.get("data", {}).get("text/plain", "")) for each in cell.outputs)
        for cell in cells
    ]


def test_what_is_committed_is_valid_small_and_was_run():
    notebook = nbformat.read(PATH, as_version=4)
    nbformat.validate(notebook)
    text = PATH.read_text()
    assert len(text) < 100_000 and not re.search(r"/home/|/root/|/tmp/|/work/", text)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert all(
        output.output_type not in ("error", "stream") or output.name == "stdout" for c in cells for output in c.outputs
    )
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs)
    for name in re.findall(r"\]\(([\w-]+\.md)\)", "".join(cell.source for cell in notebook.cells)):
        assert (ROOT / "docs" / name).exists()


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    from nbclient import NotebookClient

    monkeypatch.setenv("DISSECT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(PATH, as_version=4)
    before = printed(notebook)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    after = printed(notebook)
    assert len(after) == len(before) and after[0] == before[0]
    assert "O1 undecided" in after[4] and "a verdict needs 3" in after[4]
    assert re.fullmatch(r"full +MRR@20 [\d.]+\nwithout-propagation +MRR@20 [\d.]+\n'undecided'", after[5])
    assert "s1" in after[1] and (tmp_path / "runs").exists()
