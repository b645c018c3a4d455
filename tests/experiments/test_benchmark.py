"""The benchmark compares blocks with their uncut network, each with its own layers."""

import json
from pathlib import Path

import pytest

from dbjax.sampling import Sampler
from experiments import benchmark

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL = [
    "--config.model.depth=2",
    "--config.model.width=8",
    "--config.partition.num_blocks=2",
    "--config.placement.steps_per_dispatch=1",
    "--config.data.batch_size=4",
    "--config.sampling.num_steps=4",
    "--config.sampling.batch_size=8",
    "--repeats=1",
]


def test_blocks_and_the_uncut_network_train_and_draw_in_turn(tmp_path, monkeypatch, capsys):
    layers = []
    walk = Sampler.__call__

    def counted(sampler, *args, **settings):
        layers.append(sampler.layer_evaluations)
        return walk(sampler, *args, **settings)

    monkeypatch.setattr(Sampler, "__call__", counted)
    out = tmp_path / "speed.json"
    config = f"--config={CONFIGS / 'spiral.py'}"
    benchmark.main([config, *SMALL, f"--out={out}"])
    found = json.loads(out.read_text())
    drawn = found["samples_per_second"]
    assert drawn["end_to_end"] > 0 and drawn["blocks"] > 0
    # Both once unseen, then in turn.
    assert layers == [8, 4, 8, 4]
    told = capsys.readouterr().out
    assert f"(ratio {drawn['blocks'] / drawn['end_to_end']:.3f})" in told
    assert "a step of all 2 blocks in one program" in told
