"""Texts from a trained run: written to files, printed, and shown as they come to be."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int
from tqdm.auto import tqdm

from dbjax.build import Setup
from dbjax.data import Codec
from dbjax.masked_text import Revealing, masked_prompt, revealing
from dbjax.pictures import block_colour
from dbjax.sampling import Sampler
from dbjax.session import Model

SHOWN_STEPS = 8


@dataclasses.dataclass(frozen=True)
class TextRequest:
    """What to write.

    Attributes:
        count: number of texts.
        prompt: what they shall say, with gaps; None is nothing in particular.
        gap: what stands for one masked token, in the prompt and where steps are shown.
        show_steps: print how one of them comes to be.
        seed: of the draws.
    """

    count: int
    prompt: str | None
    gap: str
    show_steps: bool
    seed: int


def start_of(setup: Setup, request: TextRequest) -> Int[np.ndarray, "count length"]:
    """The masked texts that sampling starts from.

    Raises:
        SettingError: if the prompt cannot be one.
    """
    info = setup.dataset.info
    ids = masked_prompt(info.codec, request.prompt or "", request.gap, info.length)
    return np.tile(ids, (request.count, 1))


def sample_texts(
    setup: Setup, model: Model, request: TextRequest, folder: Path, name: str, *, colour: bool
) -> None:
    """Samples texts, prints them, and writes them to `folder`; `colour` is for terminals."""
    codec, start = setup.dataset.info.codec, start_of(setup, request)
    sampler = Sampler(setup.task, setup.sampling)
    if request.show_steps:
        walk = model.walk(1, start=start[:1], sampler=sampler, seed=request.seed)
        found = revealing(codec, walk, sampler.grid)
        for step in found.shown_steps(SHOWN_STEPS):
            print(shown_step(found, step, request.gap, colour=colour), end="\n\n")
    with tqdm(total=request.count, desc="sample", unit="text") as bar:
        tokens = model.sample(
            request.count, start=start, sampler=sampler, seed=request.seed, progress=bar.update
        )
    for number, text in enumerate(write_texts(codec, tokens, folder, name), start=1):
        print(f"--- {number} ---\n{text}")
    print(f"\n{folder / name}.txt and .npz")


def shown_step(found: Revealing, step: int, gap: str, *, colour: bool) -> str:
    """The text after so many steps, each token that was revealed in its block's colour."""
    block = found.blocks[step - 1]
    name = _painted(f"block {block}", block, colour)
    heading = f"step {step} of {len(found.blocks)}, {found.masked(step):.0%} masked, {name}"
    body = "".join(
        gap * span.masked or _painted(span.text, span.block, colour) for span in found.spans(step)
    )
    return f"{heading}\n{body}"


def write_texts(
    codec: Codec, tokens: Int[np.ndarray, "count length"], folder: Path, name: str
) -> Sequence[str]:
    """Writes NAME.txt, where a line with its number comes before each, and NAME.npz ("tokens")."""
    texts = [codec.decode(ids) for ids in tokens]
    folder.mkdir(exist_ok=True)
    numbered = (f"--- {number} ---\n{text}\n" for number, text in enumerate(texts, start=1))
    (folder / f"{name}.txt").write_text("".join(numbered), encoding="utf-8")
    np.savez_compressed(folder / f"{name}.npz", tokens=tokens)
    return texts


def _painted(text: str, block: int | None, colour: bool) -> str:
    """In the colour of a block, by ANSI escape sequences."""
    if not colour or block is None:
        return text
    red, green, blue = bytes.fromhex(block_colour(block)[1:])
    return f"\x1b[38;2;{red};{green};{blue}m{text}\x1b[0m"
