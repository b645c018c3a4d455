"""How far are blocks behind their end-to-end twin in language, and what brings them nearer?

    python -m experiments.sweep --config=configs/ar_docs.py:plain \\
        --sweep=configs/sweeps/language_gap.py --workdir=runs/language_gap \\
        --measure=nats_per_token --measure=walk.nats_per_token \\
        --measure=generated.perplexity --measure=generated.distinct_2

Every idea is a change from `plain`, which differs from the paper's setting in its noise, there that
of images, and in that its walk draws the token that it goes on from. `paper up to sigma 6.6` leaves
out the levels that are hardly ever drawn. A block's step runs a clean and a noisy stream, so that
all blocks together run twice the layers of the twin; `twin, twice the steps` has trained with as
many layer evaluations. The twin of 2 layers is what the noisiest block of 2 would be if it had
nothing to do with noise.
"""

from dbjax.sweeps import Point, chain

STEPS = 2000
TWIN = "configs/ar_docs.py:end_to_end"
PAPER = "configs/ar_docs.py:paper"
FITTED = {"noise.p_mean": -0.66, "noise.p_std": 0.69, "noise.sigma_max": 3.07}
"""Of `experiments.fit_noise` for `plain`, as are the edges."""
EQUAL_LOSS = {"partition.edges": (0, 0.278, 0.577, 1)}
NEXT_TOKEN = {"autoregressive.next_token_weight": 0.5}
DEEP_FIRST = {"partition.layers": (4, 1, 1)}
DEEP_LAST = {"partition.layers": (1, 1, 4)}
TEXT = {"model.start": "text"}
POSTERIOR = {"autoregressive.readout": "posterior"}
SHARED = {"placement.interface": "shared"}


def context(kind: str) -> Point:
    """Blocks that read the context through borrowed layers, which need something to learn from."""
    return {"partition.context": kind, **SHARED, **NEXT_TOKEN}


def get_sweep() -> list[Point]:
    with_posterior: list[Point] = [
        {"name": "posterior, text", **POSTERIOR, **TEXT},
        {"name": "posterior, text, deep first block", **POSTERIOR, **TEXT, **DEEP_FIRST},
        {"name": "posterior, text, deep last block", **POSTERIOR, **TEXT, **DEEP_LAST},
        {"name": "posterior", **POSTERIOR},
        {
            "name": "posterior, text, context from cleaner blocks",
            **POSTERIOR,
            **TEXT,
            **context("cleaner"),
        },
        {"name": "posterior, text, next-token loss", **POSTERIOR, **TEXT, **NEXT_TOKEN},
    ]
    ideas: list[Point] = [
        {"name": "plain"},
        {"name": "start from the text", **TEXT},
        {"name": "deep first block", **DEEP_FIRST},
        {"name": "next-token loss", **NEXT_TOKEN},
        {"name": "paper", "config": PAPER},
        {"name": "equal loss", **EQUAL_LOSS},
        {"name": "shared interface", **SHARED},
        {"name": "context from noisier blocks", **context("noisier")},
        {"name": "deep first block, read by all", **DEEP_FIRST, **context("first")},
        {"name": "context from cleaner blocks", **context("cleaner")},
        {"name": "fitted noise", **FITTED},
        {"name": "twin of 2 layers", "config": TWIN, "model.depth": 2},
        {"name": "twin, twice the steps", "config": TWIN, "training.steps": 2 * STEPS},
        {"name": "paper up to sigma 6.6", "config": PAPER, "noise.sigma_max": 6.6},
    ]
    return chain([{"name": "twin", "config": TWIN}], with_posterior, ideas)
