"""Published figures, with ours beside them where the same task has been measured."""

import dataclasses
from collections.abc import Sequence

from docs.site.configs import config_link
from docs.site.studies import Measured, Study
from experiments.tables import markdown_table

PAPER = "DiffusionBlocks, arXiv 2506.14202"
NOPROP = "NoProp, arXiv 2503.24322, table 1, one-hot embeddings"
PAGE = "results/published.md"


@dataclasses.dataclass(frozen=True)
class Task:
    """Figures that somebody has published on one task.

    Attributes:
        title: network and data.
        measure: as published, with the direction that is better.
        setting: published budget.
        source: where.
        config: file that sets this task up here.
        data: its `data.name`.
        rows: method, published figure, and variant of the config (empty where there is none).
    """

    title: str
    measure: str
    setting: str
    source: str
    config: str
    data: str
    rows: Sequence[tuple[str, str, str]]


BLOCKS, END_TO_END = "DiffusionBlocks", "end to end"
TASKS = (
    Task(
        "ViT, CIFAR-100", "accuracy ↑", "12 layers, B = 3, 500 epochs, batch 128", PAPER,
        "configs/vit_cifar100.py", "cifar100",
        [(END_TO_END, "60.25 %", "end_to_end"), (BLOCKS, "59.30 %", "blocks")],
    ),
    Task(
        "Forward-Forward on the same ViT, CIFAR-100", "accuracy ↑",
        "which program and which accuracy is not said", PAPER,
        "configs/ff_cifar100.py", "cifar100",
        [("Forward-Forward", "7.85 %", "forward_forward"), ("contrastive", "–", "contrastive")],
    ),
    Task(
        "ViT, Tiny-ImageNet", "accuracy ↑", "12 layers, B = 2, 100 epochs, batch 256", PAPER,
        "configs/vit_tiny_imagenet.py", "tiny_imagenet",
        [(END_TO_END, "35.32 %", "end_to_end"), (BLOCKS, "36.16 %", "blocks")],
    ),
    Task(
        "DiT-S/2, CIFAR-10", "FID, train / test ↓",
        "12 layers, B = 3, 100 epochs, batch 512, 50,000 samples of 50 steps, guidance 2.0", PAPER,
        "configs/dit_cifar10.py", "cifar10",
        [(END_TO_END, "32.84 / 39.83", "end_to_end"), (BLOCKS, "30.59 / 37.20", "blocks")],
    ),
    Task(
        "DiT-L/2, ImageNet 256 × 256", "FID, train / test ↓",
        "24 layers, B = 3, VAE latents, 100 epochs, batch 512", PAPER,
        "configs/dit_imagenet256.py", "imagenet256_latents",
        [(END_TO_END, "9.01 / 12.09", "end_to_end"), (BLOCKS, "9.00 / 10.63", "blocks")],
    ),
    Task(
        "Masked diffusion, text8", "bits per character ↓",
        "12 layers, B = 3, 100 epochs, batch 256", PAPER,
        "configs/mdm_text8.py", "text8",
        [(END_TO_END, "1.56", "end_to_end"), (BLOCKS, "1.45", "blocks")],
    ),
    Task(
        "Autoregressive, LM1B", "MAUVE ↑ / perplexity by Llama-2 ↓ / by GPT2-XL ↓",
        "12 layers, B = 4, length 256, 10 epochs, batch 256; the twin draws with top-p 0.95", PAPER,
        "configs/ar_lm1b.py", "tokens",
        [(END_TO_END, "0.50 / 14.58 / 38.87", "end_to_end"),
         (BLOCKS, "0.71 / 12.32 / 30.99", "blocks")],
    ),
    Task(
        "Autoregressive, OpenWebText", "MAUVE ↑ / perplexity by Llama-2 ↓ / by GPT2-XL ↓",
        "12 layers, B = 4, length 1024, 10 epochs, batch 256", PAPER,
        "configs/ar_owt.py", "tokens",
        [(END_TO_END, "0.85 / 15.05 / 25.24", "end_to_end"),
         (BLOCKS, "0.82 / 14.99 / 26.33", "blocks")],
    ),
    Task(
        "Recurrent depth, LM1B", "MAUVE ↑ / perplexity by Llama-2 ↓ / by GPT2-XL ↓",
        "2 + 4 + 2 layers, width 512; 5 epochs of Huginn, 15 of ours", PAPER,
        "configs/huginn_lm1b.py", "tokens",
        [("Huginn", "0.49 / 17.04 / 46.73", "end_to_end"),
         ("one pass at a random level", "0.70 / 16.08 / 42.43", "blocks")],
    ),
    Task(
        "NoProp's CNN, CIFAR-100", "accuracy ↑", "B = 3, 1,000 epochs, batch 128", PAPER,
        "configs/noprop_cifar100.py", "cifar100",
        [(END_TO_END, "47.80 %", "backprop"), (BLOCKS, "46.88 %", "blocks"),
         ("NoProp-DT", "46.06 %", "dt"), ("NoProp-CT", "21.31 %", "ct"),
         ("NoProp-FM", "37.57 %", "fm")],
    ),
    Task(
        "NoProp's CNN, CIFAR-10", "accuracy ↑", "150 epochs, CT and FM 500, batch 128", NOPROP,
        "configs/noprop_cifar10.py", "cifar10",
        [(END_TO_END, "79.92 %", "backprop"), (BLOCKS, "–", "blocks"),
         ("NoProp-DT", "79.25 %", "dt"), ("NoProp-CT", "73.35 %", "ct"),
         ("NoProp-FM", "73.14 %", "fm")],
    ),
    Task(
        "NoProp's CNN, MNIST", "accuracy ↑", "100 epochs, batch 128", NOPROP,
        "configs/noprop_mnist.py", "mnist",
        [(END_TO_END, "99.46 %", "backprop"), (BLOCKS, "–", "blocks"),
         ("NoProp-DT", "99.47 %", "dt"), ("NoProp-CT", "97.84 %", "ct"),
         ("NoProp-FM", "99.21 %", "fm")],
    ),
)  # fmt: skip

ABLATIONS = (
    (
        "Partition", "DiT-S/2, CIFAR-10, B = 3, γ = 0: FID on test images ↓",
        ["layers of the blocks", "uniform", "equi-probability"],
        [["4, 4, 4", "43.53", "38.03"], ["3, 6, 3", "43.59", "41.64"],
         ["6, 4, 2", "47.49", "45.42"], ["2, 4, 6", "42.37", "40.40"]],
        "configs/sweeps/partition.py",
    ),
    (
        "Number of blocks", "FID on test images ↓, and MAUVE ↑ of LM1B",
        ["B", "CIFAR-10", "ImageNet 256 × 256", "LM1B"],
        [["1", "39.83", "12.09", "–"], ["2", "35.47", "9.90", "0.61"],
         ["3", "38.03", "11.11", "0.65"], ["4", "45.43", "11.90", "0.67"],
         ["6", "53.32", "14.43", "0.62"]],
        "configs/sweeps/block_count.py",
    ),
)  # fmt: skip


def page(studies: Sequence[Study]) -> str:
    """All published figures, each with ours or the word that there are none."""
    found = [measured for study in studies for measured in study.measured()]
    parts = [
        "# Published figures beside ours",
        "What is published is of the budget named above each table; what is measured, of that "
        "in its line. Where that is a smaller network or fewer steps, read it as "
        "what the budget gives. *Not measured*: not yet run with this code; the config is there.",
        *(_task(task, found) for task in TASKS),
        *(_ablation(*ablation, studies) for ablation in ABLATIONS),
        _speed(studies),
        "## Memory\n\nThe paper's formula stands beside measured steps in the guide on "
        "[memory](../guides/memory.md#measured).",
    ]
    return "\n\n".join(parts) + "\n"


def _task(task: Task, found: Sequence[Measured]) -> str:
    lines = []
    changed: dict[str, list[str]] = {}
    for method, published, variant in task.rows:
        ours = [x for x in found if _is_of(x, task, variant)]
        for x in ours:
            shown = x.value if x.measure in task.measure else f"{x.value} ({x.measure})"
            if len(ours) > 1:
                shown += f" ({x.name})"
            device = x.study.provenance["device"]
            lines.append([method, published, shown, x.budget, device, _link(x.study)])
            changed.setdefault(x.overrides, []).append(method)
        if not ours:
            lines.append([method, published, "not measured", "–", "–", "–"])
    header = ["method", f"published: {task.measure}", "measured"]
    table = markdown_table([*header, "budget of a block", "hardware", "from"], lines)
    config = config_link(task.config, PAGE)
    parts = [
        f"## {task.title}",
        f"Published budget: {task.setting} ({task.source}). Config: {config}.",
        table.rstrip(),
        *(
            f"{', '.join(methods)}: measured with `{overrides.replace(', ', '`, `')}`."
            for overrides, methods in changed.items()
            if overrides
        ),
    ]
    return "\n\n".join(parts)


def _is_of(measured: Measured, task: Task, variant: str) -> bool:
    """Whether a figure is of this task; the data may have been changed on the command line."""
    file, _, own = measured.config.partition(":")
    changed = "data.name" in measured.overrides
    data = measured.data or ("" if changed else task.data)
    return (file, own or "blocks", data) == (task.config, variant, task.data)


def _ablation(
    title: str, about: str, header: list[str], lines: list[list[str]], sweep: str,
    studies: Sequence[Study],
) -> str:  # fmt: skip
    ours = [study for study in studies if sweep in study.configs]
    link = config_link(sweep, PAGE)
    said = f"Measured, on other tasks, with {link}: {', '.join(map(_link, ours))}"
    none = f"Not measured; the sweep is {link}"
    table = markdown_table(header, lines)
    return f"## {title}\n\n{about} ({PAPER}).\n\n{table}\n{said if ours else none}."


def _speed(studies: Sequence[Study]) -> str:
    """All blocks at once over the uncut network."""
    key = "stacked_over_end_to_end"
    lines = [["vit, cifar100; published, of 0.0543 s and 0.0507 s", "1.07", "a GPU", "–"]]
    for study in studies:
        if key in study.document:
            config, device = study.document["config"], study.provenance["device"]
            name = f"{config['family']}, {config['data']['name']}"
            lines.append([name, f"{study.document[key]:.2f}", device, _link(study)])
    table = markdown_table(["network and data", "ratio ↓", "hardware", "from"], lines)
    about = "An iteration of all three blocks, over one of the uncut network."
    return f"## Time of an iteration\n\n{about}\n\n{table.rstrip()}"


def _link(study: Study) -> str:
    return f"[{study.title}]({study.name}.md)"
