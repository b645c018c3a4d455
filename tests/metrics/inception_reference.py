"""FID's network once more, in NumPy, from the published description and in PyTorch's order of axes.

Written apart from `dbjax.metrics.inception`: each branch is a list of convolutions, BatchNorm is
computed as it is defined, and pools look at one window at a time.
"""

import numpy as np

# A convolution: name, height and width of the kernel, stride, padding of height and width.
ONE = (1, 1, 1, 0, 0)
THREE = (3, 3, 1, 1, 1)
HALVE = (3, 3, 2, 0, 0)
WIDE, TALL = (1, 7, 1, 0, 3), (7, 1, 1, 3, 0)

A = [
    [("branch1x1", ONE)],
    [("branch5x5_1", ONE), ("branch5x5_2", (5, 5, 1, 2, 2))],
    [("branch3x3dbl_1", ONE), ("branch3x3dbl_2", THREE), ("branch3x3dbl_3", THREE)],
    ["mean", ("branch_pool", ONE)],
]
B = [
    [("branch3x3", HALVE)],
    [("branch3x3dbl_1", ONE), ("branch3x3dbl_2", THREE), ("branch3x3dbl_3", HALVE)],
    ["halve"],
]
C = [
    [("branch1x1", ONE)],
    [("branch7x7_1", ONE), ("branch7x7_2", WIDE), ("branch7x7_3", TALL)],
    [("branch7x7dbl_1", ONE), ("branch7x7dbl_2", TALL), ("branch7x7dbl_3", WIDE),
     ("branch7x7dbl_4", TALL), ("branch7x7dbl_5", WIDE)],
    ["mean", ("branch_pool", ONE)],
]  # fmt: skip
D = [
    [("branch3x3_1", ONE), ("branch3x3_2", HALVE)],
    [("branch7x7x3_1", ONE), ("branch7x7x3_2", WIDE), ("branch7x7x3_3", TALL),
     ("branch7x7x3_4", HALVE)],
    ["halve"],
]  # fmt: skip
LINE, COLUMN = (1, 3, 1, 0, 1), (3, 1, 1, 1, 0)


def e(pool):
    three = [("branch3x3_1", ONE)]
    twice = [("branch3x3dbl_1", ONE), ("branch3x3dbl_2", THREE)]
    return [
        [("branch1x1", ONE)],
        [*three, ("branch3x3_2a", LINE)],
        [*three, ("branch3x3_2b", COLUMN)],
        [*twice, ("branch3x3dbl_3a", LINE)],
        [*twice, ("branch3x3dbl_3b", COLUMN)],
        [pool, ("branch_pool", ONE)],
    ]


STEM = [
    ("Conv2d_1a_3x3", HALVE),
    ("Conv2d_2a_3x3", (3, 3, 1, 0, 0)),
    ("Conv2d_2b_3x3", THREE),
    "halve",
    ("Conv2d_3b_1x1", ONE),
    ("Conv2d_4a_3x3", (3, 3, 1, 0, 0)),
    "halve",
]
BLOCKS = {
    **dict.fromkeys(("Mixed_5b", "Mixed_5c", "Mixed_5d"), A),
    "Mixed_6a": B,
    **dict.fromkeys(("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"), C),
    "Mixed_7a": D,
    "Mixed_7b": e("mean"),
    "Mixed_7c": e("max"),
}


def network(tensors, x):
    """Vectors, maps and logits without bias, of [images, 3, height, width]."""
    for step in STEM:
        x = apply(tensors, "", step, x)
    for name, branches in BLOCKS.items():
        found = []
        for branch in branches:
            y = x
            for step in branch:
                y = apply(tensors, f"{name}.", step, y)
            found.append(y)
        if name == "Mixed_6d":
            maps = found[0][:, :7]
        x = np.concatenate(found, axis=1)
    vectors = x.mean(axis=(2, 3))
    return (
        vectors,
        maps.transpose(0, 2, 3, 1).reshape(len(maps), -1),
        vectors @ tensors["fc.weight"].T,
    )


def apply(tensors, prefix, step, x):
    if isinstance(step, str):
        return pool(x, step)
    name, (height, width, stride, *pad) = step
    weight = tensors[f"{prefix}{name}.conv.weight"]
    assert weight.shape[2:] == (height, width)
    gamma, beta, mean, variance = (
        tensors[f"{prefix}{name}.bn.{part}"][:, np.newaxis, np.newaxis]
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    x = np.pad(x, ((0, 0), (0, 0), (pad[0],) * 2, (pad[1],) * 2))
    windows = np.lib.stride_tricks.sliding_window_view(x, (height, width), axis=(2, 3))
    y = np.einsum("nchwij,ocij->nohw", windows[:, :, ::stride, ::stride], weight, optimize=True)
    return np.maximum((y - mean) / np.sqrt(variance + 1e-3) * gamma + beta, 0)


def pool(x, kind):
    edge = 0 if kind == "halve" else 1
    x = np.pad(x, ((0, 0), (0, 0), (edge,) * 2, (edge,) * 2), constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))
    if kind == "halve":
        return windows[:, :, ::2, ::2].max(axis=(4, 5))
    return (np.nanmean if kind == "mean" else np.nanmax)(windows, axis=(4, 5))
