"""Text and tokenizers for tests."""

import gzip
import lzma
from pathlib import Path

from dbjax.data.train_tokenizer import train_tokenizer
from experiments import prepare_text

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


def write_folder(folder: Path) -> Path:
    """A folder of tokens as `experiments.prepare_text` makes it; half of it is the test split."""
    text = write(folder / "a.txt", VERSE * 40)
    tokenizer = write_tokenizer(folder / "tokenizer.json")
    out = folder / "tokens"
    shares = ["--documents=blank", "--validation=0", "--test=0.5"]
    prepare_text.main([str(text), f"--tokenizer={tokenizer}", f"--out={out}", *shares])
    return out
