"""The probe end to end on the spiral, its words and refusals, and the figure of a trade-off."""

import argparse
import json

import numpy as np
import pytest
from PIL import Image

from dbjax.choosing import Candidate, Split
from dbjax.config import load_config
from dbjax.errors import SettingError
from dbjax.workdir import claim
from experiments import choose_blocks, trade_off, trade_off_samples

pytestmark = pytest.mark.usefixtures("quick_compilation")

RUN = [
    "--config=configs/spiral.py",
    "--config.model.depth=2",
    "--config.model.width=4",
    "--config.training.steps=20",
    "--config.optimizer.warmup_steps=10",
    "--config.data.batch_size=16",
    "--config.placement.steps_per_dispatch=2",
    "--config.placement.name=sequential",
    "--config.placement.steps_per_visit=2",
]


@pytest.fixture(scope="module")
def chosen(tmp_path_factory, quick_compilation):
    """The folder of a probe, and its choice.json."""
    out = tmp_path_factory.mktemp("probe") / "choice"
    choose_blocks.main([*RUN, "--tolerance=1000", f"--out={out}"])
    return out, json.loads((out / "choice.json").read_text())


def test_a_probe_says_how_many_blocks(chosen):
    out, choice = chosen
    assert choice["num_blocks"] == 2
    assert [one["num_blocks"] for one in choice["candidates"]] == [1, 2]
    assert choice["steps"] == 10
    assert {one["verdict"] for one in choice["candidates"]} == {"within"}
    added = sum(row["B = 2"] - row["B = 1"] for row in choice["levels"])
    assert added == pytest.approx(choice["candidates"][1]["excess"], rel=1e-6)
    uncut, cut = choice["candidates"]
    assert cut["train_bytes"] < uncut["train_bytes"]
    # Two blocks of a layer each, beside one of two.
    assert 0.1 < cut["seconds_per_round"] / uncut["seconds_per_round"] < 10
    assert trade_off.times([choice])["spiral"].keys() == {1, 2}
    assert (out / "figure.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--tolerance=0"], "--tolerance"),
        (["--share=2"], "--share"),
        (["--seeds=0"], "--seeds"),
        (["--blocks", "1"], "--blocks"),
        (["--blocks", "3"], "partition.num_blocks"),
        (["--config.partition.layers=1,1"], "partition.layers"),
        (["--config=configs/vit_digits.py"], "family"),
        (["--config=configs/dit_digits.py", "--blocks", "2"], "data.split"),
    ],
)
def test_refusals(arguments, named):
    another = any(one.startswith("--config=") for one in arguments)
    with pytest.raises(SettingError, match=f"^{named}"):
        choose_blocks.main(arguments if another else [*RUN, *arguments])


def candidates(*verdicts):
    return [Candidate(2**i, 0.0, 0.0, verdict) for i, verdict in enumerate(verdicts)]


def test_the_answer_in_words():
    def said(*verdicts, seeds=1, share=0.2):
        args = argparse.Namespace(tolerance=0.01, seeds=seeds, share=share)
        return choose_blocks.verdict(candidates(*verdicts), args)

    assert said("within", "within", "beyond").startswith("Up to 2 blocks")
    assert said("within", "beyond", "beyond").startswith("Leave it uncut")
    assert said("within", "undecided", "beyond").startswith("Undecided")
    assert "B = 4" in said("within", "within", "undecided")
    assert "know nothing of other seeds" in said("within", "within")
    assert "3 seeds" in said("within", "within", seeds=3)
    assert "After 0.2 of the steps" in said("within", "within")
    assert "of the steps" not in said("within", "within", share=1) + said("within", "beyond")


def test_the_split_in_words():
    assert "partition.layers=2,4,6" in choose_blocks.of_split(Split((2, 4, 6), 0.02, 0.001))
    assert "chance" in choose_blocks.of_split(Split((2, 4, 6), 0.002, 0.01))
    assert choose_blocks.of_split(Split((4, 4), 0.0, 0.0)) == "Layers: even."
    assert "--blocks" in choose_blocks.of_split(None)


def document(*rows):
    return {
        "measures": ["frechet_distance", "train_bytes.total"],
        "rows": [
            {
                "name": f"{data} {b}",
                "status": "not run" if value is None else "done",
                "settings": {"data.name": data, "partition.num_blocks": b},
                "values": {
                    "frechet_distance": {"mean": value},
                    "train_bytes.total": {"mean": value and 100 / b},
                },
            }
            for data, b, value in rows
        ],
    }


def test_trade_off_is_drawn_relative_to_the_uncut_network(tmp_path, capsys):
    rows = [("shapes", 1, 2.0), ("shapes", 4, 3.0), ("textures", 1, None), ("textures", 4, 9.0)]
    made = document(*rows)
    # Without its uncut network a data set has no curve.
    assert trade_off.relative(made, "frechet_distance") == {"shapes": {1: 1.0, 4: 1.5}}
    assert trade_off.relative(made, "train_bytes.total") == {"shapes": {1: 1.0, 4: 0.25}}
    sweep, choice = tmp_path / "sweep.json", tmp_path / "choice.json"
    sweep.write_text(json.dumps(made))
    times = {"candidates": [{"num_blocks": b, "seconds_per_round": 2 + b} for b in (1, 4)]}
    choice.write_text(json.dumps({"data": "shapes", "num_blocks": 4, "share": 0.5, **times}))
    assert trade_off.times([json.loads(choice.read_text())]) == {"shapes": {1: 1.0, 4: 2.0}}
    trade_off.main([f"--sweep={sweep}", f"--choices={choice}", f"--out={tmp_path / 'a.png'}"])
    assert (tmp_path / "a.png").stat().st_size > 0
    assert "not measured: textures 1" in capsys.readouterr().out


def test_the_longest_probe_of_a_data_set_is_ringed(tmp_path, monkeypatch):
    sweep = tmp_path / "sweep.json"
    sweep.write_text(json.dumps(document(("shapes", 1, 2.0), ("shapes", 4, 3.0))))
    files = []
    for share, chosen, counts in ((0.5, 1, (1, 2)), (0.2, 4, (1, 4))):
        files.append(tmp_path / f"choice_{share}.json")
        times = [{"num_blocks": b, "seconds_per_round": b / share} for b in counts]
        told = {"data": "shapes", "num_blocks": chosen, "share": share, "candidates": times}
        files[-1].write_text(json.dumps(told))
    drawn = []
    figure = trade_off.trade_off_figure
    monkeypatch.setattr(
        trade_off, "trade_off_figure", lambda *told: drawn.append(told) or figure(*told)
    )
    trade_off.main(
        [f"--sweep={sweep}", "--choices", *map(str, files), f"--out={tmp_path / 'a.png'}"]
    )
    ((*_, time, _, chosen),) = drawn
    assert chosen == {"shapes": 1}
    # Each was measured beside its own uncut network.
    assert time == {"shapes": {1: 1.0, 2: 2.0, 4: 4.0}}


def test_a_sweep_without_the_uncut_network_is_refused():
    with pytest.raises(SettingError, match="no uncut network"):
        trade_off.relative(document(("shapes", 4, 3.0)), "frechet_distance")


def test_samples_of_every_number_of_blocks_are_shown_below_real_ones(tmp_path):
    rows = []
    for b in (4, 1):
        folder = tmp_path / f"blocks_{b}"
        claim(folder, load_config("configs/dit_drawn.py:shapes", {"partition.num_blocks": b}))
        settings = {"data.name": "shapes", "partition.num_blocks": b}
        values = {key: {"mean": 1.0} for key in ("frechet_distance", "train_bytes.total")}
        runs = [{"folder": folder.name}]
        rows.append({"status": "done", "settings": settings, "values": values, "runs": runs})
    sweep, out = tmp_path / "sweep.json", tmp_path / "samples.png"
    sweep.write_text(json.dumps({"measures": ["frechet_distance"], "rows": rows}))
    arguments = [f"--sweep={sweep}", f"--out={tmp_path / 'a.png'}", f"--samples={out}"]
    with pytest.raises(SettingError, match=r"blocks_1/samples/samples.npz is missing"):
        trade_off.main(arguments)
    assert not (tmp_path / "a.png").exists()
    colours = {1: (255, 0, 0), 4: (0, 0, 255)}
    for b, colour in colours.items():
        (tmp_path / f"blocks_{b}" / "samples").mkdir()
        np.savez(
            tmp_path / f"blocks_{b}" / "samples" / "samples.npz",
            image=np.broadcast_to(np.uint8(colour), (15, 16, 16, 3)),
            label=np.arange(15) % 5,
        )
    trade_off.main(arguments)
    picture = np.asarray(Image.open(out).convert("RGB"))
    top = {b: np.argwhere((picture == colour).all(-1))[0][0] for b, colour in colours.items()}
    assert 0 < top[1] < top[4]


def test_real_ones_are_of_the_classes_of_samples_and_none_is_shown_twice():
    labels = np.array([0, 1, 1, 2, 0])
    assert list(trade_off_samples._of_classes(labels, [1, 1, 1, 0])) == [1, 2, 0, 4]
