"""A strict session: simulated devices, no silent broadcasting, shapes checked at run time."""

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

import hypothesis
import jax
import jaxtyping
import pytest
from jax.experimental.compilation_cache import compilation_cache

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


@pytest.fixture(scope="session", autouse=True)
def compile_once() -> Iterator[None]:
    """Compiles each program once, whether a test is the first to need it or a process of one's.

    Workers do not share what they compile: jax writes it in place, so that one of them might read
    what another has half written, which is a warning.
    """
    with tempfile.TemporaryDirectory(prefix="dbjax_compiled_") as folder:
        settings = {
            "jax_compilation_cache_dir": folder,
            "jax_persistent_cache_min_compile_time_secs": 0.0,
            "jax_persistent_cache_min_entry_size_bytes": -1,
        }
        with pytest.MonkeyPatch.context() as patch:
            for name, value in settings.items():
                jax.config.update(name, value)
                patch.setenv(name.upper(), str(value))
            # What was compiled while tests were collected has settled that there is no cache.
            compilation_cache.reset_cache()
            yield


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
