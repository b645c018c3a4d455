"""The example that opens the README runs, and does what it says."""

import re
from pathlib import Path

import numpy as np

README = Path(__file__).parents[2] / "README.md"


def test_the_example_converts_trains_and_samples():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    example = blocks[0]
    assert example.count("\n") <= 40
    names: dict = {}
    exec(compile(example, str(README), "exec"), names)
    samples, points = names["samples"], names["points"]
    assert samples.shape == (1000, 2)
    np.testing.assert_allclose(samples.std(axis=0), points.std(axis=0), rtol=0.1)
    # On the spiral radius and angle agree; the middle half-turn between two arms is pi away.
    radius, angle = np.hypot(*samples.T), np.arctan2(samples[:, 1], samples[:, 0])
    off = np.abs((radius - angle + np.pi) % (2 * np.pi) - np.pi)
    assert np.median(off) < 0.4, "chance is pi / 2"
