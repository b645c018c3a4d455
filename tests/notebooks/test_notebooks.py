"""Notebooks run from the first cell to the last, as they are, with small settings."""

import ast
import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.util import run_sync

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = pytest.mark.parametrize(
    "path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem
)
SMALL = {
    "DBJAX_NOTEBOOKS": "small",
    # Programs run for a few steps only and need not be fast.
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    # All share a kernel; the one that asks for devices need not be its first.
    "JAX_NUM_CPU_DEVICES": "6",
    # Warnings are errors, but for one of ipykernel to the writers of kernels, as it ends.
    "PYTHONWARNINGS": "error,ignore::PendingDeprecationWarning:ipykernel.kernelbase",
}


def read(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def code(path):
    return [cell.source for cell in read(path).cells if cell.cell_type == "code"]


def imports(source):
    """Packages that a cell imports; lines for IPython are left out."""
    lines = [line for line in source.split("\n") if not line.startswith("%")]
    nodes = list(ast.walk(ast.parse("\n".join(lines))))
    named = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    named += [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in named}


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """One for all, since loading jax takes longer than most of what they do."""
    first = NotebookClient(nbformat.v4.new_notebook(), kernel_name="python3")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**SMALL, "TMPDIR": str(tmp_path_factory.mktemp("tmp"))}.items():
            patch.setenv(name, value)
        # The kernel has one of its own, which draws into the notebook.
        patch.delenv("MPLBACKEND", raising=False)
        first.create_kernel_manager()
        run_sync(first.async_start_new_kernel)(env=dict(os.environ))
    run_sync(first.async_start_new_kernel_client)()
    yield first.km, first.kc
    run_sync(first._async_cleanup_kernel)()


@NOTEBOOKS
def test_it_runs(path, kernel):
    notebook = read(path)
    # As new: nothing is known of the notebook before, and the folder is its own.
    for source in (f"import os\nos.chdir({str(FOLDER)!r})", "%reset -f"):
        notebook.cells.insert(0, nbformat.v4.new_code_cell(source))
    client = NotebookClient(notebook, km=kernel[0], timeout=None)
    client.kc = kernel[1]
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    told = [output for output in outputs if output.output_type == "stream"]
    assert [output.text for output in told if output.name == "stderr"] == []
    lines = "".join(output.text for output in told).split("\n")
    for name in ("python", "jax", "flax", "dbjax", "device"):
        assert any(line.startswith(f"{name:<8}") for line in lines)
    # Progress is a widget, not one more bar drawn in characters.
    assert "█" not in str(notebook.metadata.get("widgets", {}))
    assert any("image/png" in output.get("data", ()) for output in outputs)


@NOTEBOOKS
def test_it_is_kept_without_outputs(path):
    for cell in read(path).cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count, dict(cell.metadata)) == ([], None, {})


@NOTEBOOKS
def test_dbjax_is_found_by_one_and_the_same_cell_before_anything_needs_it(path):
    cells = code(path)
    (find,) = [cell for cell in cells if "%run notebooks/runtime.py" in cell]
    assert find == code(sorted(FOLDER.glob("*.ipynb"))[0])[0]
    for cell in cells[: cells.index(find) + 1]:
        assert imports(cell) <= {"os", "pathlib", "subprocess", "matplotlib_inline"}


@NOTEBOOKS
def test_it_installs_nothing_itself(path):
    assert not any("pip" in line.split() for cell in code(path) for line in cell.split("\n"))


def test_devices_are_asked_for_before_jax_is_loaded():
    first, second, *_ = code(FOLDER / "03_one_block_per_device.ipynb")
    assert "JAX_NUM_CPU_DEVICES" in first and "runtime.py" in second
