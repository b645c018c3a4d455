"""Ways to train a ViT without end-to-end back-propagation, and with it, on scikit-learn's digits.

    python -m experiments.compare --methods=configs/comparisons/digits.py \\
        --workdir=runs/compare_digits --seeds 3
"""

from typing import Any

VIT, FORWARD_FORWARD = "configs/vit_digits.py", "configs/ff_digits.py"
NOPROP = "configs/noprop_digits.py"


def get_methods() -> dict[str, tuple[str, dict[str, Any]]]:
    """Config file and overrides of each method, by its name."""
    return {
        "DiffusionBlocks": (f"{VIT}:blocks", {}),
        "end to end": (f"{VIT}:end_to_end", {}),
        "Forward-Forward": (f"{FORWARD_FORWARD}:forward_forward", {}),
        "contrastive Forward-Forward": (f"{FORWARD_FORWARD}:contrastive", {}),
        "DiffusionBlocks, NoProp's CNN": (f"{NOPROP}:blocks", {}),
        "end to end, NoProp's CNN": (f"{NOPROP}:backprop", {}),
        "NoProp-DT": (f"{NOPROP}:dt", {}),
        "NoProp-CT": (f"{NOPROP}:ct", {}),
        "NoProp-FM": (f"{NOPROP}:fm", {}),
    }
