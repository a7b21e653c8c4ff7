"""The notebooks run from top to bottom, in order, and each pair of files holds the same cells."""

from __future__ import annotations

from pathlib import Path

import pytest

jupytext = pytest.importorskip("jupytext", reason="jupytext is in the test extra")

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
ORDER = ("train_and_explore", "ask_a_surrogate", "atoms")


def test_every_notebook_is_listed() -> None:
    assert {p.stem for p in NOTEBOOKS.iterdir() if p.suffix in (".py", ".ipynb")} == set(ORDER)


@pytest.mark.parametrize("name", ORDER)
def test_the_pair_holds_the_same_cells_and_no_output(name: str) -> None:
    script, paired = (jupytext.read(NOTEBOOKS / f"{name}{suffix}") for suffix in (".py", ".ipynb"))
    assert [(c.cell_type, c.source) for c in script.cells] == [(c.cell_type, c.source) for c in paired.cells], (
        f"jupytext --sync notebooks/{name}.py"
    )
    assert all(not c.outputs and c.execution_count is None for c in paired.cells if c.cell_type == "code")


@pytest.mark.slow
def test_the_notebooks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="nbclient is in the test extra")
    pytest.importorskip("dinosaur", reason="dinosaur is in the climate and test extras")
    pytest.importorskip("ase", reason="ase is in the materials and test extras")
    monkeypatch.setenv("SURROGATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOKS.parent))
    for name in ORDER:
        notebook = jupytext.read(NOTEBOOKS / f"{name}.py")
        client = nbclient.NotebookClient(
            notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
        )
        client.execute()
        pictures = [
            o for c in notebook.cells if c.cell_type == "code" for o in c.outputs if "image/png" in o.get("data", {})
        ]
        assert len(pictures) >= 2, name
    assert (tmp_path / "runs" / "climate" / "latest" / "report.html").is_file()
    assert (tmp_path / "forecast.nc").is_file()
