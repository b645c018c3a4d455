"""Run by the first cell of every notebook: installs dbjax where it is not, and says what runs here.

The jax of a runtime is made for its accelerator. It is never installed over: pip is held to the
versions that are there, and where those are too old nothing is installed at all.
"""

import importlib
import importlib.metadata
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

CHECKOUT = Path(__file__).resolve().parents[1]
JAX = re.compile(r"jax|jaxlib|jax[-_](cuda|rocm).*|libtpu.*")
"""Packages that must fit each other and the drivers of the machine."""
NEWER = (
    "In Colab choose the latest runtime version (Runtime > Change runtime type). Elsewhere, or if "
    "that is too old as well, install a newer one yourself (pip install --upgrade 'jax[cuda13]' on "
    "a GPU, 'jax[tpu]' on a TPU, jax on a CPU), restart the runtime and run this cell again"
)


def prepare(checkout: Path = CHECKOUT) -> None:
    """Makes `import dbjax` work from `checkout`, and `configs` and `experiments` with it.

    Raises:
        RuntimeError: if Python or jax is too old, pip fails, or the runtime must be restarted.
    """
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    check_python(project["requires-python"], ".".join(map(str, sys.version_info[:3])))
    there = installed()
    if missing := unmet(project["dependencies"], there):
        check_jax(project["dependencies"], there)
        print(f"installing dbjax: {', '.join(missing)} missing or too old; a minute or two")
        install(checkout, there)
        check_unchanged(there, installed(), importlib.metadata.packages_distributions())
    # What pip has just written is not on the path of a Python that was running before.
    if str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))
    importlib.invalidate_caches()


def installed() -> dict[str, str]:
    """Versions of all packages of this Python, by name."""
    return {
        normal(found.metadata["Name"]): found.version
        for found in importlib.metadata.distributions()
    }


def normal(name: str) -> str:
    """The one spelling of a package's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def unmet(requirements: Sequence[str], there: Mapping[str, str]) -> list[str]:
    """Names of packages that are missing or too old."""
    return [
        wanted.name
        for wanted in map(Requirement, requirements)
        if not wanted.specifier.contains(there.get(normal(wanted.name), ""), prereleases=True)
    ]


def check_python(allowed: str, version: str) -> None:
    """Refuses a Python that dbjax does not run on."""
    if not SpecifierSet(allowed).contains(version):
        raise RuntimeError(f"dbjax needs Python {allowed} and this is {version}. {NEWER}")


def check_jax(requirements: Sequence[str], there: Mapping[str, str]) -> None:
    """Refuses a jax that is too old; where there is none, pip may install one."""
    own = [wanted for wanted in requirements if JAX.fullmatch(Requirement(wanted).name)]
    if "jax" in there and unmet(own, there):
        raise RuntimeError(
            f"dbjax needs {', '.join(own)} and this runtime has jax {there['jax']}, which is left "
            f"as it is. {NEWER}"
        )


def held(there: Mapping[str, str]) -> list[str]:
    """Constraints that keep pip from touching the runtime's jax."""
    return [f"{name}=={version}" for name, version in there.items() if JAX.fullmatch(name)]


def install(checkout: Path, there: Mapping[str, str]) -> None:
    """Installs the checkout itself, so that what is changed in it counts."""
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("\n".join(held(there)) + "\n")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run(
            [*pip, "--constraint", str(constraints), "--editable", str(checkout)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    if done.returncode:
        raise RuntimeError(
            f"pip could not install dbjax beside {', '.join(held(there)) or 'no jax'}; it said:\n"
            + done.stdout[-2000:]
        )


def check_unchanged(
    before: Mapping[str, str], after: Mapping[str, str], owners: Mapping[str, Sequence[str]]
) -> None:
    """Refuses to go on with another jax than before, or with old modules of new packages.

    Args:
        before: versions by package.
        after: those after the installation.
        owners: packages of each module.
    """
    changed = [name for name, version in before.items() if after.get(name) != version]
    if touched := [name for name in changed if JAX.fullmatch(name)]:
        raise RuntimeError(
            f"the installation has changed {', '.join(touched)}; start a new runtime"
        )
    stale = sorted({
        name
        for module in list(sys.modules)
        for name in map(normal, owners.get(module, ()))
        if name in changed
    })  # fmt: skip
    if stale:
        raise RuntimeError(
            f"{', '.join(stale)} had been loaded before being renewed: restart the runtime "
            "(Runtime > Restart session) and run this cell again"
        )


def versions() -> str:
    """What runs here, a line each."""
    import flax
    import jax

    import dbjax

    kinds = [device.device_kind for device in jax.devices()]
    rows = {
        "python": sys.version.split()[0],
        "jax": jax.__version__,
        "flax": flax.__version__,
        "dbjax": f"{dbjax.__version__}, {Path(dbjax.__file__).parent}",
        "device": ", ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds)),
    }
    return "\n".join(f"{name:<8}{value}" for name, value in rows.items())


if __name__ == "__main__":
    prepare()
    print(versions())
