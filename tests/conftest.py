"""A strict session: simulated devices, no silent broadcasting, shapes checked at run time."""

import atexit
import os
import sys
import tempfile
from collections.abc import Iterator

# These are read when jax is imported. A value from outside wins, so that the same tests can be run
# on an accelerator or on another number of devices; processes that tests start inherit them.
assert "jax" not in sys.modules, "jax is imported before tests/conftest.py could configure it"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("MPLBACKEND", "agg")
# Each program is compiled once, whichever worker, or process of a test, is the first to need it.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    compiled = tempfile.TemporaryDirectory(prefix="dbjax_compiled_")
    atexit.register(compiled.cleanup)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled.name

import hypothesis
import jax
import jaxtyping
import pytest

# From here on every module of dbjax that is imported has its annotations, shapes among them,
# checked at each call.
jaxtyping.install_import_hook("dbjax", "beartype.beartype")

# Adding (4, 3) to (3,) is an error: in a library of batched states it is nearly always a mistake.
jax.config.update("jax_numpy_rank_promotion", "raise")

# Compiling makes a first example slow, and the same examples each time make a failure repeatable.
hypothesis.settings.register_profile(
    "dbjax",
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("dbjax")


@pytest.fixture(scope="module")
def quick_compilation() -> Iterator[None]:
    """For modules whose programs run for a few steps only and need not be fast.

    What was compiled so rounds differently in places (random draws, for one), so that no compiled
    program may pass from such a module to the others, some of which compare bit for bit.
    """
    before = jax.config.read("jax_disable_most_optimizations")
    jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
    jax.clear_caches()


@pytest.fixture
def key() -> jax.Array:
    """Return the random key that tests draw from."""
    return jax.random.key(0)
