"""Texts from a trained run: written to files, printed, and shown as they come to be."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int
from tqdm.auto import tqdm

from dbjax import keys
from dbjax.build import Setup
from dbjax.data import Codec
from dbjax.errors import require
from dbjax.families.masked_lm import MaskedTask
from dbjax.generation import Generator
from dbjax.masked_text import Revealing, masked_prompt, revealing
from dbjax.pictures import block_colour
from dbjax.sampling import Sampler
from dbjax.session import Model

SHOWN_STEPS = 8
STREAMED = 4
"""Tokens between two looks at a text that is being written."""


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


def prompt_of(setup: Setup, request: TextRequest) -> Int[np.ndarray, "count prompt"]:
    """What autoregressive texts begin with.

    Raises:
        SettingError: if the prompt leaves nothing to write, has a character that the model does
            not know, or steps are to be shown.
    """
    require(not request.show_steps, "--show_steps", True, "nothing where no token is masked")
    info = setup.dataset.info
    ids = info.codec.encode(request.prompt or "")
    allowed = f"fewer than {info.length} tokens, which is data.length"
    require(len(ids) < info.length, "the length of --prompt", len(ids), allowed)
    return np.tile(ids.astype(np.int32), (request.count, 1))


def write_on(
    generator: Generator,
    model: Model,
    count: int,
    *,
    prompt: Int[np.ndarray, "count prompt"] | None = None,
    seed: int = 0,
    progress: Callable[[int], object] = lambda count: None,
) -> Int[np.ndarray, "count length"]:
    """Texts of the whole length that begin with `prompt`, token by token.

    Args:
        generator: of an autoregressive model.
        model: its blocks.
        count: number of texts.
        prompt: what each begins with; None is nothing.
        seed: of the draws.
        progress: told the number of texts after each batch.
    """
    known = np.zeros((count, 0), np.int32) if prompt is None else prompt
    length, size = model.task.length, min(generator.batch_size, count)
    done: list[np.ndarray] = []
    for start in range(0, count, size):
        # Every batch has the full size, so that one compiled program serves them all.
        index = np.arange(start, start + size) % count
        key = keys.derive(seed, "sample", start)
        new = length - known.shape[1]
        done.append(generator(model.blocks, known[index], new, seed=key)[: count - start])
        progress(len(done[-1]))
    return np.concatenate(done)


def stream_text(setup: Setup, model: Model, prompt: Int[np.ndarray, "count p"], seed: int) -> None:
    """Prints one text while it is being written."""
    codec, generator = setup.dataset.info.codec, Generator(setup.task, setup.sampling)
    shown = codec.decode(prompt[0])
    print(f"--- 1, as it is written ---\n{shown}", end="", flush=True)
    left = setup.task.length - prompt.shape[1]
    stream = generator.stream(
        model.blocks, prompt[:1], left, seed=keys.derive(seed, "sample", 0), every=STREAMED
    )
    for tokens in stream:
        # Decoded as a whole: a token may be part of a character.
        text = codec.decode(tokens[0])
        print(text[len(shown) :], end="", flush=True)
        shown = text
    print("\n")


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
    codec = setup.dataset.info.codec
    if not isinstance(setup.task, MaskedTask):
        prompt = prompt_of(setup, request)
        stream_text(setup, model, prompt, request.seed)
        with tqdm(total=request.count, desc="sample", unit="text") as bar:
            tokens = write_on(
                Generator(setup.task, setup.sampling),
                model,
                request.count,
                prompt=prompt,
                seed=request.seed,
                progress=bar.update,
            )
        _show(write_texts(codec, tokens, folder, name), folder / name)
        return
    start = start_of(setup, request)
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
    _show(write_texts(codec, tokens, folder, name), folder / name)


def _show(texts: Sequence[str], file: Path) -> None:
    for number, text in enumerate(texts, start=1):
        print(f"--- {number} ---\n{text}")
    print(f"\n{file}.txt and .npz")


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
