import json

import numpy as np
import pytest

from dbjax.data import DataConfig, Dataset, in_memory_dataset, load_dataset, make_stream
from dbjax.errors import SettingError

CONFIG = DataConfig(batch_size=4)


def numbered(size: int) -> Dataset:
    """Images of 2 x 2 pixels; the label is the number of the image."""
    images = np.arange(size * 4, dtype=np.uint8).reshape(size, 2, 2, 1)
    return in_memory_dataset(
        "digits",
        images,
        np.arange(size),
        num_classes=size,
        mean=0.0,
        std=1.0,
        max_value=255.0,
    )


DATASET = numbered(10)


def stream(dataset=DATASET, config=CONFIG, seed=0, block=0):
    return make_stream(dataset, config, seed=seed, block=block)


def labels(source, count):
    return np.concatenate([next(source)["label"] for _ in range(count)]).tolist()


def assert_equal(left, right):
    assert left.keys() == right.keys()
    for key in left:
        np.testing.assert_array_equal(left[key], right[key])


def test_batches_keep_raw_values_and_pair_images_with_labels():
    batch = next(stream())
    assert batch["image"].dtype == np.uint8
    assert batch["label"].dtype == np.int32
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], 4 * batch["label"])


def test_two_streams_agree():
    one, other = stream(), stream()
    for _ in range(20):
        assert_equal(next(one), next(other))


def test_every_epoch_takes_each_example_once_in_a_new_order():
    # Five batches of four are two epochs of ten: the third batch runs across the end of the first.
    seen = labels(stream(), 5)
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]


def test_a_batch_may_be_larger_than_the_data():
    seen = labels(stream(config=DataConfig(batch_size=25)), 2)
    assert [sorted(seen[start : start + 10]) for start in range(0, 50, 10)] == [[*range(10)]] * 5


@pytest.mark.parametrize("other", [{"seed": 1}, {"block": 1}, {"seed": 1, "block": 0}])
def test_seeds_and_blocks_have_orders_of_their_own(other):
    assert labels(stream(), 5) != labels(stream(**other), 5)


def test_the_order_is_the_one_that_runs_have_started_with():
    # A change here makes every saved position point at other batches.
    expected = [4, 1, 2, 8, 5, 0, 7, 9, 6, 3, 6, 5, 3, 1, 2, 0, 7, 4, 8, 9]
    assert labels(stream(seed=3, block=1), 5) == expected


def test_a_restored_stream_continues_exactly():
    config = DataConfig(batch_size=4, flip=True)
    original = stream(config=config)
    original.take(7)
    saved = json.loads(json.dumps(original.state()))
    expected = [next(original) for _ in range(10)]

    fresh = stream(config=config)
    fresh.restore(saved)
    for batch in expected:
        assert_equal(next(fresh), batch)


def test_restoring_drops_batches_read_ahead():
    source = stream()
    start = source.state()
    first = labels(source, 3)
    middle = source.state()
    then = labels(source, 5)
    source.restore(middle)
    assert labels(source, 5) == then
    source.restore(start)
    assert labels(source, 3) == first


def test_the_state_counts_batches_taken_not_batches_read_ahead():
    source = stream()
    next(source)
    source.take(2)
    assert source.state()["position"] == 3


@pytest.mark.parametrize(
    ("other", "name"),
    [
        ({"seed": 5}, "seed"),
        ({"block": 5}, "block"),
        ({"config": DataConfig(batch_size=5)}, "batch_size"),
        ({"dataset": numbered(11)}, "fingerprint"),
    ],
)
def test_the_state_of_another_stream_is_refused(other, name):
    with pytest.raises(SettingError, match=f"{name} of the saved data stream"):
        stream().restore(stream(**other).state())


def test_take_stacks_the_next_batches():
    one, other = stream(), stream()
    taken = one.take(3)
    assert taken["image"].shape == (3, 4, 2, 2, 1)
    for index in range(3):
        assert_equal({key: value[index] for key, value in taken.items()}, next(other))
    assert_equal(next(one), next(other))


def test_flips_mirror_about_half_the_images_and_nothing_else():
    plain = stream().take(50)
    flipped = stream(config=DataConfig(batch_size=4, flip=True)).take(50)
    np.testing.assert_array_equal(flipped["label"], plain["label"])
    same = (flipped["image"] == plain["image"]).all(axis=(2, 3, 4))
    mirrored = (flipped["image"] == plain["image"][:, :, :, ::-1]).all(axis=(2, 3, 4))
    assert (same ^ mirrored).all()
    assert 0.3 < mirrored.mean() < 0.7


def test_flips_differ_between_epochs_blocks_and_seeds():
    def mirrored(**identity):
        taken = stream(config=DataConfig(batch_size=10, flip=True), **identity).take(2)
        rows = np.argsort(taken["label"], axis=1)
        first_pixel = np.take_along_axis(taken["image"][:, :, 0, 0, 0], rows, axis=1)
        return first_pixel % 2 == 1

    choices = [*mirrored(), *mirrored(seed=1), *mirrored(block=1)]
    assert len({choice.tobytes() for choice in choices}) == 6


def test_two_views_are_the_same_images_augmented_each_by_itself():
    plain = stream().take(50)
    bare = stream(config=DataConfig(batch_size=4, views=2)).take(50)
    flipped = stream(config=DataConfig(batch_size=4, views=2, flip=True)).take(50)
    assert bare["image"].shape == (50, 4, 2, 2, 2, 1)
    for batch in (bare, flipped):
        np.testing.assert_array_equal(batch["label"], plain["label"])
    for view in range(2):
        np.testing.assert_array_equal(bare["image"][:, :, view], plain["image"])
    mirrored = (flipped["image"] == bare["image"][..., ::-1, :]).all(axis=(3, 4, 5))
    same = (flipped["image"] == bare["image"]).all(axis=(3, 4, 5))
    assert (same ^ mirrored).all()
    both = [(mirrored[..., 0] == a) & (mirrored[..., 1] == b) for a in (0, 1) for b in (0, 1)]
    assert all(0.15 < chosen.mean() < 0.35 for chosen in both)


def test_flips_are_those_that_runs_have_started_with():
    config = DataConfig(batch_size=10, flip=True)
    taken = next(stream(config=config, seed=3, block=1))
    mirrored = taken["image"][:, 0, 0, 0] % 2
    assert taken["label"][mirrored == 1].tolist() == [2, 5, 0, 6]


def test_digits_stream():
    config = DataConfig(batch_size=32)
    batch = make_stream(load_dataset(config), config, seed=0, block=0).take(2)
    assert batch["image"].shape == (2, 32, 8, 8, 1)
