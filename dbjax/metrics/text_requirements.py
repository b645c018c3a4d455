"""What measures of text need of the texts."""

from collections.abc import Sequence

from dbjax.data.dataset import fingerprint
from dbjax.errors import require


def require_texts(texts: Sequence[str], name: str, *, at_least: int = 1) -> None:
    """Refuses texts that cannot be measured.

    Args:
        texts: the texts.
        name: what they are, for the error.
        at_least: how many are needed.

    Raises:
        SettingError: there are too few, or one has no character.
    """
    require(len(texts) >= at_least, f"the number of {name}", len(texts), f"{at_least} or more")
    for i, text in enumerate(texts):
        require(len(text) > 0, f"number {i} of {name}", text, "texts of one character or more")


def texts_name(texts: Sequence[str]) -> str:
    """Returns their number and a hash, to tell apart what was fitted to different texts."""
    return f"{len(texts)} texts {fingerprint(chr(0).join(texts).encode())[:8]}"
