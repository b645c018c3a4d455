"""Input speed: what is reported, refusals, and that both sides augment alike."""

import json
import re
import sys

import jax
import numpy as np
import pytest

from dbjax.data import DataConfig
from dbjax.data.augment import list_operations
from experiments import cli, input_speed

CONFIG = ["--config=configs/vit_digits.py"]
END_TO_END = ["--config=configs/vit_digits.py:end_to_end"]
TINY = ["--config.model.depth=1", "--config.model.width=8", "--config.model.num_heads=1"]
TINY += ["--config.model.mlp_hidden=8", "--config.data.batch_size=8"]
TINY += ["--config.placement.steps_per_dispatch=2"]
SIDES = {"host", "host_core", "device"}


def test_the_program_reports_steps_and_both_sides(tmp_path, capsys):
    out = tmp_path / "folder" / "found.json"
    input_speed.main([*END_TO_END, *TINY, "--config.data.flip=True", "--seconds=1", f"--out={out}"])
    found = json.loads(out.read_text())
    step, rates = found["seconds_per_step"], found["images_per_second"]
    processor = {"compute_processor", "loop_processor"}
    assert step.keys() == {"compute", "loop", "blocked_in_take", *processor}
    assert 0 < step["blocked_in_take"] < step["loop"]
    assert found["input_share"] == pytest.approx(step["loop"] / step["compute"] - 1)
    assert found["blocked_share"] == pytest.approx(step["blocked_in_take"] / step["loop"])
    assert found["device_needs_images_per_second"] == pytest.approx(8 / step["compute"])
    assert {name: set(rate) for name, rate in rates.items()} == {
        "none": SIDES - {"device"},
        "crop": SIDES,
        "flip": SIDES,
        "all": SIDES,
    }
    assert all(rate > 0 for each in rates.values() for rate in each.values())
    assert {"command", "commit", "device"} <= found["provenance"].keys()
    printed = capsys.readouterr().out
    assert all(re.search(rf"^{name} ", printed, re.MULTILINE) for name in rates)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--seconds=0"], r"--seconds is 0\.0; allowed: more than 0"),
        (["--seconds=nan"], r"--seconds is nan"),
        (["--block=3"], r"--block is 3; allowed: 0 to 2"),
        (["--out=tests"], r"--out is 'tests'; allowed: a file"),
        (["--config.data.batch_size=0"], r"data\.batch_size is 0"),
    ],
)
def test_refusals_are_one_sentence(monkeypatch, capsys, arguments, sentence):
    monkeypatch.setattr(sys, "argv", ["input_speed", *CONFIG, *arguments])
    assert cli.program(input_speed.main) == 2
    error = capsys.readouterr().err.strip()
    assert re.search(sentence, error)
    assert len(error.splitlines()) == 1


def test_augmentations_are_those_of_the_config_where_it_has_them():
    config = DataConfig(name="cifar100", crop=3, rand_augment=1, rand_augment_magnitude=5)
    found = input_speed.augmentations(config)
    settings = {name: (c.crop, c.flip, c.rand_augment) for name, c in found.items()}
    assert settings == {
        "none": (0, False, 0),
        "crop": (3, False, 0),
        "flip": (0, True, 0),
        "rand_augment": (0, False, 1),
        "all": (3, True, 1),
    }
    assert {c.rand_augment_magnitude for c in found.values()} == {5}
    assert list(input_speed.augmentations(DataConfig(name="spiral"))) == ["none"]


@pytest.mark.parametrize("channels", [1, 3])
def test_operations_of_the_device_are_those_of_the_host(channels):
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(4, 16, 16, channels), dtype=np.uint8)
    images[1] //= 9
    images[2] = 40
    operations = list_operations(9, 16, 16)
    program = jax.jit(input_speed._Operations(9, 16, 16))
    for number, operation in enumerate(operations):
        planes = np.ascontiguousarray(np.moveaxis(images, -1, 1))
        expected = np.moveaxis(operation(planes), 1, -1).astype(int)
        found = np.asarray(program(images, np.full(len(images), number))).astype(int)
        # Compilers round floats in other places.
        assert abs(found - expected).max() <= 1, number
        assert (found != expected).mean() < 0.05, number


def test_crops_and_flips_of_the_device_are_windows_of_the_image(key):
    images = np.random.default_rng(0).integers(1, 256, size=(20, 6, 6, 3), dtype=np.uint8)
    config = DataConfig(name="cifar100", crop=2, flip=True)
    found = np.asarray(input_speed.augment(images, key, config=config))
    padded = np.pad(images, [(0, 0), (2, 2), (2, 2), (0, 0)])
    kinds = set()
    for image, result in zip(padded, found, strict=True):
        kinds |= {
            (y, x, mirrored)
            for y in range(5) for x in range(5) for mirrored in (False, True)
            if (image[y : y + 6, x : x + 6][:, :: -1 if mirrored else 1] == result).all()
        }  # fmt: skip
    assert {y for y, _, _ in kinds} == {x for _, x, _ in kinds} == set(range(5))
    assert {mirrored for *_, mirrored in kinds} == {False, True}
    drawn = [input_speed.augment(images, jax.random.key(seed), config=config) for seed in (0, 1)]
    assert (drawn[0] != drawn[1]).any()
