"""Images as sequences of patches, and back."""

from jaxtyping import Array, Float


def patchify(
    images: Float[Array, "batch height width channels"], patch_size: int
) -> Float[Array, "batch tokens values"]:
    """Cut images into square patches.

    Tokens run over the image row by row. Inside a token the values run over the patch's rows, then
    its columns, then the channels: values = patch_size^2 * channels.
    """
    batch, height, width, channels = images.shape
    rows, columns = height // patch_size, width // patch_size
    grid = images.reshape(batch, rows, patch_size, columns, patch_size, channels)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * columns, -1)


def unpatchify(
    tokens: Float[Array, "batch tokens values"], patch_size: int, height: int, width: int
) -> Float[Array, "batch height width channels"]:
    """Inverse of `patchify`, for images of the given height and width."""
    batch = tokens.shape[0]
    rows, columns = height // patch_size, width // patch_size
    grid = tokens.reshape(batch, rows, columns, patch_size, patch_size, -1)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height, width, -1)
