"""Text and tokenizers for tests."""

import gzip
import lzma
from pathlib import Path

from dbjax.data.train_tokenizer import train_tokenizer

WRITE = {"": lambda raw: raw, ".gz": gzip.compress, ".xz": lzma.compress}
VERSE = """Tyger Tyger, burning bright,
In the forests of the night;
What immortal hand or eye,
Could frame thy fearful symmetry?

In what distant deeps or skies
Burnt the fire of thine eyes?
On what wings dare he aspire?
What the hand, dare seize the fire?
"""


def write(path: Path, text: str) -> Path:
    """Writes text, compressed as the file's name says."""
    path.write_bytes(WRITE.get(path.suffix, WRITE[""])(text.encode()))
    return path


def write_tokenizer(path: Path, vocabulary: int = 300) -> str:
    """Trains a small tokenizer on the verse."""
    text = write(path.with_suffix(".txt"), VERSE * 3)
    train_tokenizer([text], path, vocabulary=vocabulary)
    return str(path)
