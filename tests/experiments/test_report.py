"""The report: self-contained, true to evaluation.json, for one run or two, of every kind."""

import base64
import dataclasses
import html.parser
import io
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dbjax.config import config_to_json, load_config
from dbjax.errors import SettingError
from dbjax.metrics.classification import confusion_matrix
from dbjax.monitor import Journal
from dbjax.noise import LogNormalNoise
from dbjax.partition import PartitionConfig, make_partition
from dbjax.pictures import block_colour
from experiments import evaluate, report_runs
from experiments.report import main, show_bytes, show_number, show_seconds, times, write_report
from experiments.report_runs import ClassifierRun, confused, paired, read_run

CONFIGS = Path(__file__).parents[2] / "configs"
TOTAL = {1: 25_165_824, 3: 10_066_330}
VOID = {"meta", "img", "br", "link", "input", "hr"}


def write_run(folder: Path, num_blocks: int, points: bool = False) -> Path:
    """A run folder as experiments.train and experiments.evaluate leave it, with made-up numbers."""
    config = load_config(
        CONFIGS / ("spiral.py" if points else "dit_digits.py:blocks"),
        {"partition.num_blocks": num_blocks, "partition.layers": None},
    )
    noise = LogNormalNoise()
    partition = make_partition(PartitionConfig(num_blocks), noise, 6)
    us = (np.arange(12) + 0.5) / 12
    evaluation: dict[str, Any] = {
        "num_samples": 1437,
        "frechet_distance": 0.4 + 0.1 * num_blocks,
        "frechet_features": "coordinates" if points else "pixels in [0, 1]",
        "samples_per_second": 31.5 * num_blocks,
        "train_bytes": {
            "parameters": 1_500_000 // num_blocks,
            "gradients": 1_500_000 // num_blocks,
            "optimizer": 3_000_000 // num_blocks,
            "average": 0,
            "activations": 9_000_000 // num_blocks,
            "total": TOTAL[num_blocks],
        },
        "layer_evaluations_per_sample": 300 // num_blocks,
        "seconds_per_step": 0.25 / num_blocks,
        "loss_over_noise": [
            {"u": u, "sigma": float(noise.level(u)), "block": partition.block_of(u), "loss": 0.4}
            for u in us
        ],
        "steps": {str(b): 600 for b in range(num_blocks)},
        "layers": [6 // num_blocks] * num_blocks,
        "edges_sigma": [float(noise.level(u)) for u in partition.edges],
        "provenance": {
            "command": "python -m experiments.evaluate --workdir a b",
            "commit": "abc1234",
            "device": "cpu (cpu), x86_64",
            "python": "3.12.0",
            "jax": "0.12.0",
            "flax": "0.13.0",
        },
    }
    if not points:
        evaluation |= {"label_accuracy": 0.9 + 0.01 * num_blocks, "label_accuracy_of_real": 0.987}
    (folder / "samples").mkdir(parents=True)
    (folder / "config.json").write_text(config_to_json(config))
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    for b in range(num_blocks):
        journal = Journal(folder, b, 0)
        for s in range(1, 13):
            journal.write(50 * s, {"loss": 1 / s + 0.1 * b, "grad_norm": 1.0})
        journal.close()
    for shade, name in enumerate(("samples", "real", "path")):
        Image.new("L", (40, 40), 40 * shade + num_blocks).save(folder / "samples" / f"{name}.png")
    image = np.zeros((5, 2) if points else (5, 8, 8, 1), np.uint8)
    np.savez_compressed(folder / "samples" / "samples.npz", image=image, label=np.zeros(5, int))
    return folder


LABEL = np.arange(40) % 10
WRONG = {3: [0, 11, 12, 13], 1: [0]}
"""Test images that the runs of so many blocks are wrong about; they say the class after."""


def write_classifier(folder: Path, num_blocks: int) -> Path:
    """The run folder of a classifier by blocks, or of its twin, with made-up numbers."""
    variant = "blocks" if num_blocks > 1 else "end_to_end"
    config = load_config(CONFIGS / f"vit_digits.py:{variant}")
    evaluation = json.loads((write_run(folder, num_blocks) / "evaluation.json").read_text())
    for name in (
        "frechet_distance",
        "frechet_features",
        "label_accuracy",
        "label_accuracy_of_real",
    ):
        del evaluation[name]
    if num_blocks == 1:
        del evaluation["loss_over_noise"]
    predicted = LABEL.copy()
    predicted[WRONG[num_blocks]] = (predicted[WRONG[num_blocks]] + 1) % 10
    probabilities = np.full((40, 10), 0.02, np.float32)
    probabilities[np.arange(40), predicted] = 0.82
    evaluation |= {
        "num_samples": 40,
        "num_classes": 10,
        "num_noises": 1,
        "accuracy": 1 - len(WRONG[num_blocks]) / 40,
        "negative_log_likelihood": 0.2 * num_blocks,
        "calibration_error": 0.012 * num_blocks,
        "layer_evaluations_per_sample": 6,
    }
    if num_blocks > 1:
        evaluation["num_noises"] = 4
        evaluation["accuracy_of_one_walk"] = {"mean": 0.875, "std": 0.02}
        evaluation["diagnostics"] = {
            "num_images": 40,
            "num_noises": 8,
            "walk": [
                {
                    "step": b + 1,
                    "sigma": [80.0, 0.3, 0.002][b],
                    "block": b,
                    "accuracy": 0.5 + 0.1 * b,
                    "oracle": 0.6 + 0.2 * b,
                    "image_only": 0.5 - 0.2 * b,
                }
                for b in range(3)
            ],
            "without_block": [{"block": b, "accuracy": 0.3 + 0.2 * b} for b in range(3)],
            "by_num_steps": [
                {"num_steps": n, "accuracy": 0.7, "layer_evaluations": 2 * n} for n in (1, 3, 6, 12)
            ],
            "by_num_noises": [
                {"num_noises": n, "accuracy": 0.8, "layer_evaluations": 6 * n} for n in (1, 2, 4, 8)
            ],
        }
    (folder / "config.json").write_text(config_to_json(config))
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    shown = np.zeros((len(WRONG[num_blocks]), 8, 8, 4), np.uint8)
    shown[..., 0] = np.array(WRONG[num_blocks])[:, None, None]
    shown[..., 3] = 255
    np.savez(
        folder / "predictions.npz",
        probabilities=probabilities,
        label=LABEL,
        confusion=confusion_matrix(probabilities, LABEL),
        mistakes=np.array(WRONG[num_blocks]),
        mistakes_shown=shown,
    )
    shutil.rmtree(folder / "samples")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("runs")
    return write_run(root / "blocks", 3), write_run(root / "twin", 1)


@pytest.fixture(scope="module")
def page(runs: tuple[Path, Path]) -> str:
    """The report on both runs, named in the other order on purpose."""
    out = runs[0].parent / "made" / "report.html"
    write_report([runs[1], runs[0]], out, "A <title>")
    return out.read_text(encoding="utf-8")


class Page(html.parser.HTMLParser):
    """Checks that tags are balanced, and collects what they hold."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def values(self, tag: str, attribute: str) -> list[str]:
        return [str(a[attribute]) for t, a in self.tags if t == tag and attribute in a]


def cells(text: str) -> dict[str, list[tuple[float, str]]]:
    """The table's rows: (value, what is shown) of each run."""
    table = {}
    for key, row in re.findall(r'<tr[^>]*data-key="([^"]+)">(.*?)</tr>', text, re.DOTALL):
        found = re.findall(r'data-value="([^"]+)">(.*?)</td>', row)
        table[key] = [(float(value), shown) for value, shown in found]
    return table


def test_nothing_comes_from_elsewhere(page: str) -> None:
    assert not re.search(r"https?:|//[a-z]|<script|<link|@import|url\((?!#)", page)
    parsed = Page(page)
    assert all(
        source.startswith("data:image/png;base64,") for source in parsed.values("img", "src")
    )
    assert len(page) < 3_000_000


def test_every_picture_of_the_runs_is_inside(page: str, runs: tuple[Path, Path]) -> None:
    inside = [
        Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).getpixel((0, 0))
        for source in Page(page).values("img", "src")
    ]
    # samples of both, the real data, the path of the blocks
    assert inside == [3, 1, 43, 83]


def test_figures_are_well_formed_and_share_no_ids(page: str) -> None:
    figures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(figures) == 3
    for figure in figures:
        ElementTree.fromstring(figure.replace("<svg", '<svg xmlns:xlink="x"', 1))
        assert "currentColor" in figure
        for b in range(3):
            assert block_colour(b).lower() in figure.lower()
    ids = Page(page).values("use", "id") + re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page)) <= {
        pair for name in ids for pair in ((name, ""), ("", name))
    }


def test_the_table_holds_the_measured_numbers(page: str, runs: tuple[Path, Path]) -> None:
    table = cells(page)
    evaluations = [json.loads((run / "evaluation.json").read_text()) for run in runs]
    flat = [e | {f"train_bytes.{k}": v for k, v in e["train_bytes"].items()} for e in evaluations]
    assert set(table) == {
        *(f"train_bytes.{part}" for part in evaluations[0]["train_bytes"]),
        "seconds_per_step", "train_seconds", "layer_evaluations_per_sample", "samples_per_second",
        "frechet_distance", "label_accuracy",
    }  # fmt: skip
    for key, shown in table.items():
        if key != "train_seconds":
            assert [value for value, _ in shown] == [e[key] for e in flat]
    assert [value for value, _ in table["train_seconds"]] == pytest.approx([150.0, 150.0])
    assert table["train_bytes.total"][0][1] == "9.6 MiB"
    assert table["seconds_per_step"][1][1] == "250 ms"
    assert table["label_accuracy"][0][1] == "93.0%"
    assert "98.7%" in page


def test_verdicts_know_which_way_is_better(page: str) -> None:
    def verdict(key: str) -> str:
        row = re.search(rf'data-key="{key}">(.*?)</tr>', page, re.DOTALL)
        assert row is not None
        found = re.findall(r'<small class="[^"]*">([^<]*)</small>', row.group(1))
        return str(found[0])

    assert verdict("train_bytes.total") == "better"
    assert verdict("samples_per_second") == "better"
    assert verdict("frechet_distance") == "worse"
    assert verdict("train_seconds") == "about equal"


def test_title_is_escaped_and_the_summary_tells_the_numbers(page: str) -> None:
    assert "<h1>A &lt;title&gt;</h1>" in page
    lead = re.sub(r"\s+", " ", page[page.index('class="lead"') : page.index("</header>")])
    for phrase in (
        "cut into 3 blocks (2 + 2 + 2 layers)",
        "600 steps of 64 samples for each block",
        "about 2.5 min of computing",
        "needs 9.6 MiB of memory, against 24 MiB",
        "100 layers are run, against 300",
        "distance of 0.7 from the training data, those of the other run at 0.5",
        "93.0% of them (91.0% for the other run).",
    ):
        assert phrase in lead


def test_settings_that_differ_are_marked(page: str) -> None:
    row = re.search(r'<th scope="row">partition.num_blocks</th>(.*?)</tr>', page, re.DOTALL)
    assert row is not None
    assert re.findall(r'class="differs">([^<]*)<', row.group(1)) == ["3", "1"]
    assert re.search(r'<th scope="row">commit</th>\s*<td colspan="2">abc1234</td>', page)


def test_commands_make_both_runs_again(page: str, runs: tuple[Path, Path]) -> None:
    found = re.search(r"<pre>(.*?)</pre>", page, re.DOTALL)
    assert found is not None
    assert [line.strip() for line in found.group(1).strip().splitlines() if line.strip()] == [
        "git checkout abc1234",
        *(
            f"python -m experiments.train --config={run / 'config.json'} --workdir=again/{run.name}"
            for run in runs
        ),
        "python -m experiments.evaluate --num_samples=1437 --workdir again/blocks again/twin",
        "python -m experiments.report --out=again.html --workdir again/blocks again/twin",
    ]


def test_runs_whose_folders_have_one_name_are_told_apart(runs: tuple[Path, Path], tmp_path: Path):
    folders = [tmp_path / run.name / "seed_0" for run in runs]
    for run, folder in zip(runs, folders, strict=True):
        shutil.copytree(run, folder)
    write_report(folders, tmp_path / "report.html", "Alike")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "--out=again.html --workdir again/blocks/seed_0 again/twin/seed_0" in page


def test_the_same_runs_give_the_same_bytes(page: str, runs: tuple[Path, Path]) -> None:
    out = runs[0].parent / "made" / "report.html"
    write_report(runs, out, "A <title>")
    assert out.read_text(encoding="utf-8") == page


@pytest.mark.parametrize("num_blocks", [1, 3])
@pytest.mark.parametrize("points", [False, True])
def test_one_run_alone(tmp_path: Path, num_blocks: int, points: bool) -> None:
    run = write_run(tmp_path / "run", num_blocks, points)
    main(["--workdir", str(run), "--out", str(tmp_path / "report.html")])
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    parsed = Page(text)
    assert len(parsed.values("img", "src")) == 3
    assert len(re.findall("<svg", text)) == 3
    assert '<th scope="col">ratio<' not in text
    assert ("label_accuracy" in cells(text)) is not points
    assert all(len(shown) == 1 for shown in cells(text).values())


def test_two_runs_of_equal_blocks_go_by_their_folders(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, 3) for name in ("first", "second")]
    write_report(folders, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "3 blocks (first)" in text
    assert "as 3 blocks (second)" in text


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("classifiers")
    return write_classifier(root / "blocks", 3), write_classifier(root / "twin", 1)


@pytest.fixture(scope="module")
def answers(classifiers: tuple[Path, Path]) -> str:
    """The report on both classifiers."""
    out = classifiers[0].parent / "report.html"
    write_report([classifiers[1], classifiers[0]], out)
    return out.read_text(encoding="utf-8")


def test_classifiers_are_compared_in_the_measured_numbers(answers: str) -> None:
    table = cells(answers)
    assert {"accuracy", "negative_log_likelihood", "calibration_error"} < set(table)
    assert not {"frechet_distance", "label_accuracy"} & set(table)
    assert table["accuracy"] == [(0.9, "90.0%"), (0.975, "97.5%")]
    assert table["calibration_error"] == [(0.012 * 3, "3.6%"), (0.012, "1.2%")]
    row = re.search(r'data-key="accuracy">(.*?)</tr>', answers, re.DOTALL)
    assert row is not None and "−7.5 points" in row.group(1)
    # Three images are not enough to tell 90 from 97.5 percent.
    assert re.findall(r'<small class="[^"]*">([^<]*)</small>', row.group(1)) == ["about equal"]
    text = re.sub(r"\s+", " ", answers)
    for phrase in (
        "A vision transformer of 6 layers was cut into 3 blocks (2 + 2 + 2 layers)",
        "the answers of 4 such walks are averaged",
        "It is right about 90.0% of the 40 test images.",
        "a plain vision transformer was trained end to end, for 600 steps; it is right about 97.5%",
        "0 images only 3 blocks got right, 3 images only end to end, 36 both and 1 neither",
        "One walk alone is right about 87.5% of the images",
        "guessing has 2.30",
        "After the first it is right about 50.0% of the images, after the last about 70.0%.",
        "means over at least 8 noises, on all 40 test images",
        "class 0 taken for 1 (1 image), class 1 taken for 2 (1 image), class 2 taken for 3",
        "python -m experiments.evaluate --num_noises=1 --workdir again/twin",
        "python -m experiments.evaluate --num_noises=4 --workdir again/blocks",
    ):
        assert phrase in text


def test_mistakes_are_shown_with_what_both_runs_say(answers: str) -> None:
    sources = Page(answers).values("img", "src")
    inside = [
        Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).getpixel((0, 0))
        for source in sources
    ]
    assert [pixel[0] for pixel in inside] == WRONG[3]  # type: ignore[index]
    assert re.findall(r"(\d) taken for <b>(\d)</b></span><small>82% sure", answers) == [
        ("0", "1"), ("1", "2"), ("2", "3"), ("3", "4"),
    ]  # fmt: skip
    assert re.findall(r"<small>end to end: (\d)</small>", answers) == ["1", "1", "2", "3"]


def test_figures_of_classifiers_are_well_formed_and_share_no_ids(answers: str) -> None:
    assert not re.search(r"https?:|//[a-z]|<script|<link|@import|url\((?!#)", answers)
    figures = re.findall(r"<svg.*?</svg>", answers, re.DOTALL)
    named = [re.search(r'aria-label="([^"]*)"', figure) for figure in figures]
    assert [found.group(1) for found in named if found] == [
        "The training density over the noise level, divided among the blocks",
        "Accuracy after every step of the walk",
        "Accuracy over the layers run for a prediction",
        "Accuracy without each of the blocks",
        "Test images by class and prediction",
        "Share of right predictions by confidence",
        "Training loss over steps",
        "Loss over the noise level",
    ]
    for figure in figures:
        ElementTree.fromstring(figure.replace("<svg", '<svg xmlns:xlink="x"', 1))
    ids = re.findall(r' id="([^"]+)"', answers)
    assert len(ids) == len(set(ids))


def test_one_classifier_alone(tmp_path: Path, classifiers: tuple[Path, Path]) -> None:
    for run, figures, mistakes in zip(classifiers, (8, 3), (4, 1), strict=True):
        out = tmp_path / "report.html"
        main(["--workdir", str(run), "--out", str(out)])
        text = out.read_text(encoding="utf-8")
        assert len(Page(text).values("img", "src")) == mistakes
        assert len(re.findall("<svg", text)) == figures
        assert '<th scope="col">ratio<' not in text
        assert ("From noise to an answer" in text) == (run is classifiers[0])


def test_a_classifier_of_another_method_goes_by_its_name(
    tmp_path: Path, classifiers: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(report_runs.FAMILIES, "plain_vit")
    monkeypatch.delitem(report_runs.LOSSES, "plain_vit")
    write_report(classifiers, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "3 blocks beside plain vit" in text.replace("3 Blocks", "3 blocks")
    losses = re.findall(r"<svg[^>]*Training loss.*?</svg>", text, re.DOTALL)[0]
    assert "plain vit" not in losses, "losses of two kinds are not drawn together"


def test_runs_are_compared_on_the_images_that_tell_them_apart(
    classifiers: tuple[Path, Path],
) -> None:
    ours, theirs = map(read_run, classifiers)
    assert isinstance(ours, ClassifierRun) and isinstance(theirs, ClassifierRun)
    counts = {"both": 36, "run": 0, "other": 3, "neither": 1}
    assert paired(ours, theirs) == {**counts, "verdict": "about equal"}
    worse = ours.predictions["probabilities"].copy()
    worse[20:25] = worse[20:25, ::-1]
    ours = dataclasses.replace(ours, predictions={**ours.predictions, "probabilities": worse})
    assert paired(ours, theirs)["verdict"] == "worse"
    assert paired(theirs, ours)["verdict"] == "better"
    assert confused(np.array([[5, 0, 2], [0, 5, 0], [3, 0, 1]])) == [(2, 0, 3), (0, 2, 2)]


def refuse(workdirs: list[Path], out: Path, text: str) -> None:
    with pytest.raises(SettingError, match=text):
        write_report(workdirs, out)
    assert not out.exists()


def test_what_cannot_be_reported_is_refused(tmp_path: Path, runs: tuple[Path, Path]) -> None:
    out = tmp_path / "report.html"
    unevaluated = write_run(tmp_path / "unevaluated", 3)
    (unevaluated / "evaluation.json").unlink()
    refuse([unevaluated], out, "has no evaluation.json; run experiments.evaluate first")
    undrawn = write_run(tmp_path / "undrawn", 3)
    (undrawn / "samples" / "path.png").unlink()
    refuse([undrawn], out, "run experiments.evaluate first")
    refuse([tmp_path / "nowhere"], out, "holds no run")
    refuse([runs[0]] * 3, out, "number of --workdir is 3")
    points = write_run(tmp_path / "points", 1, points=True)
    refuse([runs[0], points], out, "the same data")
    classifier = write_classifier(tmp_path / "classifier", 3)
    refuse(
        [runs[0], classifier], out, "family of the runs is .*; allowed: both generative, or both"
    )
    (classifier / "predictions.npz").unlink()
    refuse([classifier], out, "has no predictions.npz; run experiments.evaluate first")
    with pytest.raises(SettingError, match="trains nothing"):
        main(["--workdir", str(runs[0]), "--out", str(out), "--config.seed=1"])


def test_what_cannot_be_evaluated_is_refused(
    runs: tuple[Path, Path], classifiers: tuple[Path, Path]
) -> None:
    for run, option, reason in (
        (classifiers[0], "--num_samples", "a classifier, which is shown every test image"),
        (runs[0], "--num_noises", "whose model generates"),
    ):
        with pytest.raises(SettingError, match=f"{option} is 3; allowed: nothing for .*{reason}"):
            evaluate.main([f"{option}=3", "--workdir", str(run)])
    with pytest.raises(SettingError, match="--num_noises is 0; allowed: 1 or more"):
        evaluate.main(["--num_noises=0", "--workdir", str(classifiers[0])])


def test_numbers_in_words() -> None:
    assert [show_bytes(v) for v in (0, 512, 2048, 1024**2 - 1, 1.5 * 2**30)] == [
        "0 B", "512 B", "2 KiB", "1,024 KiB", "1.5 GiB",
    ]  # fmt: skip
    assert [show_seconds(v) for v in (2e-6, 0.0123, 1.0, 90.0, 7200.0)] == [
        "2 µs", "12.3 ms", "1 s", "1.5 min", "2 h",
    ]  # fmt: skip
    assert [show_number(v) for v in (0.01234, 12.34, 1437, 12345.6)] == [
        "0.0123", "12.3", "1,437", "12,346",
    ]  # fmt: skip
    assert show_number(float("inf")) == "∞"
    assert times(1, 2.5) == "2.5× less"
    assert times(300, 100, "fewer", "more") == "3× more"
    assert times(1.01, 1.0) == "about equal"
