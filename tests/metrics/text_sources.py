"""Texts that test files of metrics share: written by sources whose statistics are known."""

import numpy as np

ANIMALS = ("cat", "dog", "owl", "hen", "fox", "bee", "ant", "cow")
METALS = ("iron", "zinc", "gold", "lead", "tin", "steel", "brass", "bronze")


def sentences(words: tuple[str, ...], count: int, seed: int, length: int = 8) -> list[str]:
    """Words drawn evenly, joined by spaces."""
    rng = np.random.default_rng(seed)
    return [" ".join(row) for row in rng.choice(words, (count, length))]


class MarkovSource:
    """Letters of which each depends on the one before, with transitions [letters, letters]."""

    letters = "abcd"
    transitions = np.array(
        [
            [0.70, 0.10, 0.10, 0.10],
            [0.05, 0.05, 0.80, 0.10],
            [0.25, 0.25, 0.25, 0.25],
            [0.40, 0.30, 0.20, 0.10],
        ]
    )

    def tokens(self, count: int, length: int, seed: int) -> np.ndarray:
        """Sequences [count, length] that begin with an even draw."""
        rng = np.random.default_rng(seed)
        rows = [rng.integers(4, size=count)]
        cumulative = np.cumsum(self.transitions, axis=1)
        for _ in range(length - 1):
            draws = rng.random(count)[:, np.newaxis] > cumulative[rows[-1]]
            rows.append(np.minimum(draws.sum(axis=1), 3))
        return np.stack(rows, axis=1)

    def texts(self, tokens: np.ndarray) -> list[str]:
        return ["".join(self.letters[i] for i in row) for row in tokens]

    def entropy_rate(self) -> float:
        """Nats per letter, far from the beginning."""
        values, vectors = np.linalg.eig(self.transitions.T)
        stationary = np.real(vectors[:, np.argmax(np.real(values))])
        stationary /= stationary.sum()
        each = -(self.transitions * np.log(self.transitions)).sum(axis=1)
        return float(stationary @ each)
