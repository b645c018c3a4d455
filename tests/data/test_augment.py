import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from dbjax.data import DataConfig, augment, in_memory_dataset, make_stream

NEAREST = Image.Resampling.NEAREST


def affine(*matrix):
    return lambda image: image.transform(image.size, Image.Transform.AFFINE, matrix, NEAREST)


def pillow_operations(magnitude, sign, side):
    """Torchvision's operations and magnitudes, in Pillow's calls."""
    share = magnitude / 30
    shear, factor = sign * 0.3 * share, 1 + sign * 0.9 * share
    pixels = sign * int(np.linspace(0, 150 / 331 * side, 31)[magnitude])
    return [
        lambda image: image,
        affine(1, shear, 0, 0, 1, 0),
        affine(1, 0, 0, shear, 1, 0),
        affine(1, 0, -pixels, 0, 1, 0),
        affine(1, 0, 0, 0, 1, -pixels),
        lambda image: image.rotate(np.linspace(0, 30, 31)[magnitude] * sign, NEAREST),
        lambda image: ImageEnhance.Brightness(image).enhance(factor),
        lambda image: ImageEnhance.Color(image).enhance(factor),
        lambda image: ImageEnhance.Contrast(image).enhance(factor),
        lambda image: ImageEnhance.Sharpness(image).enhance(factor),
        lambda image: ImageOps.posterize(image, 8 - round(magnitude / (30 / 4))),
        lambda image: ImageOps.solarize(image, np.linspace(255, 0, 31)[magnitude]),
        ImageOps.autocontrast,
        ImageOps.equalize,
    ]


def make_images(side, channels, count=6):
    """Smooth, noisy, dark and even images."""
    rng = np.random.default_rng(side)
    images = rng.integers(256, size=(count, side, side, channels), dtype=np.uint8)
    images[1] = np.linspace(30, 180, side)[:, None, None]
    images[2] //= 9
    images[3] = 40
    return images


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [28, 32, 64])
@pytest.mark.parametrize("magnitude", [0, 9, 30])
def test_every_operation_gives_the_pixels_of_pillow(magnitude, side, channels):
    images = make_images(side, channels)
    expected = [*pillow_operations(magnitude, 1, side), *pillow_operations(magnitude, -1, side)]
    operations = augment.list_operations(magnitude, side, side)
    for number, (ours, theirs) in enumerate(zip(operations, expected, strict=True)):
        found = ours(np.ascontiguousarray(np.moveaxis(images, -1, 1)))
        assert found.dtype == np.uint8
        for plane, image in zip(found, images, strict=True):
            picture = Image.fromarray(image if channels == 3 else image[..., 0])
            wanted = np.asarray(theirs(picture)).reshape(image.shape)
            np.testing.assert_array_equal(np.moveaxis(plane, 0, -1), wanted, f"operation {number}")


def test_magnitude_zero_moves_and_colours_nothing():
    planes = np.ascontiguousarray(np.moveaxis(make_images(32, 3), -1, 1))
    for operation in augment.list_operations(0, 32, 32)[:11]:
        np.testing.assert_array_equal(operation(planes), planes)


def test_a_translation_moves_a_dot_by_its_pixels():
    planes = np.zeros((1, 1, 32, 32), np.uint8)
    planes[0, 0, 10, 20] = 255
    # 150 / 331 of 32 pixels, by 9 of 30 shares, is 4.35.
    found = {
        number: tuple(np.argwhere(augment.list_operations(9, 32, 32)[number](planes)[0, 0])[0])
        for number in (3, 4, 14 + 3, 14 + 4)
    }
    assert found == {3: (10, 24), 4: (14, 20), 17: (10, 16), 18: (6, 20)}


def test_each_image_meets_operations_of_its_own_and_keeps_its_place():
    images = np.repeat(make_images(32, 3)[:1], 2000, axis=0)
    found = augment.rand_augment(images.copy(), np.random.default_rng(0), num_ops=1, magnitude=9)
    kinds, counts = np.unique(found.reshape(2000, -1), axis=0, return_counts=True)
    # Nine operations have two directions; identity and auto-contrast both leave this noise.
    assert len(kinds) == 9 * 2 + 4
    assert counts.min() > 2000 / 28 * 0.5
    assert counts.max() < 2000 / 7 * 1.5

    numbered = np.broadcast_to(np.arange(0, 256, 4, np.uint8)[:, None, None, None], (64, 32, 32, 3))
    grown = augment.rand_augment(numbered.copy(), np.random.default_rng(0), num_ops=1, magnitude=1)
    assert abs(np.median(grown, axis=(1, 2, 3)) - numbered[:, 0, 0, 0]).max() <= 12


def test_as_many_operations_as_asked_for():
    images = make_images(32, 3)
    rng = np.random.default_rng(0)
    once = augment.rand_augment(images.copy(), rng, num_ops=1, magnitude=9)
    twice = augment.rand_augment(once.copy(), rng, num_ops=1, magnitude=9)
    both = augment.rand_augment(images.copy(), np.random.default_rng(0), num_ops=2, magnitude=9)
    np.testing.assert_array_equal(both, twice)
    none = augment.rand_augment(images.copy(), rng, num_ops=0, magnitude=9)
    np.testing.assert_array_equal(none, images)


@pytest.mark.parametrize("channels", [1, 3])
def test_crops_are_shifts_within_the_padding(channels):
    images = 1 + make_images(8, channels, count=40) // 2
    found = augment.crop(images, np.random.default_rng(0), padding=2)
    assert found.dtype == np.uint8
    padded = np.pad(images, [(0, 0), (2, 2), (2, 2), (0, 0)])
    shifts = []
    for image, crop in zip(padded, found, strict=True):
        places = [(y, x) for y in range(5) for x in range(5)
                  if (image[y : y + 8, x : x + 8] == crop).all()]  # fmt: skip
        shifts += places[:1]
    assert len(shifts) == 40
    assert {y for y, _ in shifts} == {x for _, x in shifts} == set(range(5))


NOISE = np.random.default_rng(0).integers(256, size=(10, 8, 8, 3), dtype=np.uint8)


def stream(block=0, seed=0, **settings):
    dataset = in_memory_dataset(
        "cifar10", NOISE, np.arange(10), num_classes=10, mean=127.5, std=63.75, max_value=255.0
    )
    config = DataConfig(name="cifar10", batch_size=4, **settings)
    return make_stream(dataset, config, seed=seed, block=block)


ALL = {"flip": True, "crop": 2, "rand_augment": 2}


def test_a_batch_depends_on_its_number_alone():
    first = stream(**ALL)
    batches = [next(first) for _ in range(6)]
    again = stream(**ALL)
    again.restore({**first.state(), "position": 4})
    for expected in batches[4:]:
        found = next(again)
        np.testing.assert_array_equal(found["image"], expected["image"])
        np.testing.assert_array_equal(found["label"], expected["label"])


def test_blocks_seeds_and_batches_draw_anew():
    taken = [stream(**ALL).take(2), stream(block=1, **ALL).take(2), stream(seed=1, **ALL).take(2)]
    assert len({batch.tobytes() for each in taken for batch in each["image"]}) == 6


def test_one_augmentation_does_not_move_the_draws_of_another():
    both, crop_only = stream(flip=True, crop=2).take(5), stream(crop=2).take(5)
    flip_only, plain = stream(flip=True).take(5), stream().take(5)
    mirrored = (flip_only["image"] != plain["image"]).any(axis=(2, 3, 4))
    expected = np.where(
        mirrored[..., None, None, None], crop_only["image"][:, :, :, ::-1], crop_only["image"]
    )
    np.testing.assert_array_equal(both["image"], expected)
    assert mirrored.any() and not mirrored.all()


def test_labels_and_order_stay_and_the_data_set_is_not_changed():
    source = stream(**ALL)
    np.testing.assert_array_equal(source.take(10)["label"], stream().take(10)["label"])
    batch = next(stream())
    np.testing.assert_array_equal(batch["image"], NOISE[batch["label"]])
