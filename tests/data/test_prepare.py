import dataclasses
import json
import pickle

import numpy as np
import pytest
from PIL import Image

from dbjax.data.image_sets import IMAGE_SETS
from dbjax.data.packed import unpack
from dbjax.data.prepare import prepare
from dbjax.errors import SettingError
from tests.data import archives


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def pairs(images, labels):
    return sorted(zip(labels.tolist(), map(np.ndarray.tobytes, images), strict=True))


def assert_prepared(name, data, data_dir):
    for split, (images, labels) in data.items():
        dataset = IMAGE_SETS[name].load(str(data_dir), split)
        loaded = dataset.source.read(np.arange(dataset.info.size))
        assert pairs(loaded["image"], loaded["label"]) == pairs(images, labels)


@pytest.mark.parametrize("suffix", archives.WRITE)
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_files(name, suffix, rng, tmp_path):
    data = archives.random_set(name, rng)
    files = archives.write_idx(tmp_path, data, suffix)
    prepared = prepare(name, files, tmp_path / "out", partial=True)
    assert_prepared(name, data, tmp_path / "out")
    for split, (_, labels) in data.items():
        assert prepared.per_class[split].tolist() == np.bincount(labels, minlength=10).tolist()


@pytest.mark.parametrize("files", [archives.binary_files, archives.python_files])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_archives(name, files, rng, tmp_path):
    data = archives.random_set(name, rng)
    archive = archives.write_tar(tmp_path / "archive.tar.gz", files(name, data))
    prepare(name, [archive], tmp_path / "out", partial=True)
    assert_prepared(name, data, tmp_path / "out")


def test_cifar100_has_the_features_of_tensorflow_datasets(rng, tmp_path):
    import tensorflow_datasets as tfds

    data = archives.random_set("cifar100", rng, train=2, test=2)
    archive = archives.write_tar(tmp_path / "a.tgz", archives.binary_files("cifar100", data))
    prepare("cifar100", [archive], tmp_path, partial=True)
    examples = tfds.data_source("cifar100", split="test", data_dir=tmp_path, download=False)
    assert {int(e["coarse_label"]) for e in examples} == {
        IMAGE_SETS["cifar100"].coarse[label] for label in data["test"][1]
    }


def write_packed(folder, data, name, rng, **changes):
    paths = []
    for split, (images, labels) in data.items():
        paths.append(folder / f"{name}_{split}.npz")
        names = np.array(IMAGE_SETS[name].class_names)
        noisy = name == "cifar100" and split == "train"
        named = {"labels_noisy" if noisy else "labels": labels, "label_names": names}
        np.savez(paths[-1], **{**archives.pack(images, rng), **named, **changes})
    return paths


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_packed_files_keep_a_warning_of_noisy_labels(name, rng, tmp_path):
    data = archives.random_set(name, rng, train=2, test=1)
    prepared = prepare(name, write_packed(tmp_path, data, name, rng), tmp_path, partial=True)
    assert_prepared(name, data, tmp_path)
    info = json.loads((prepared.folder / "dataset_info.json").read_text())
    for found in (info["description"], " ".join(prepared.notes)):
        assert ("labels of cifar100_train.npz are noisy" in found) == (name == "cifar100")
        assert "Of test, 1 images are here; 10,000 are published" in found


def test_packed_pixels_that_are_smooth_or_cut_short(rng):
    ramp = np.arange(32, dtype=np.uint8)
    images = np.stack([np.stack([ramp[:, None] * 3 + ramp] * 3, axis=-1), np.zeros((32, 32, 3))])
    packed = archives.pack(images.astype(np.uint8), rng)
    assert (unpack(packed) == images).all()
    for words in (packed["words"][:-1], np.append(packed["words"], np.uint16(0))):
        with pytest.raises(ValueError):
            unpack({**packed, "words": words})


@pytest.fixture
def two_birds(monkeypatch):
    """A small image set whose classes are named by folders, with known numbers of images."""
    image_set = dataclasses.replace(
        IMAGE_SETS["tiny_imagenet"], per_class={"train": (2, 1), "test": (1, 1)}
    )
    monkeypatch.setitem(IMAGE_SETS, "tiny_imagenet", image_set)
    return image_set


def write_pictures(folder, rng, layout):
    """Train in class folders; `layout` says where the others are."""
    colours = rng.integers(256, size=(5, 1, 1, 3), dtype=np.uint8)
    images = np.broadcast_to(colours, (5, 64, 64, 3))
    others = {
        "tiny": ["val/images/v0.PNG", "val/images/v1.PNG"],
        "test": ["test/n01/a.png", "test/n02/a.png"],
        "val": ["val/n01/a.png", "val/n02/images/a.png"],
    }[layout]
    train = ["train/n01/images/a.png", "train/n01/images/b.JPEG", "train/n02/images/a.png"]
    for name, image in zip(train + others, images, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name, quality=100, subsampling=0)
    if layout == "tiny":
        table = "v0.PNG\tn01\t0\t0\t62\t62\nv1.PNG\tn02\t0\t0\t62\t62\n"
        (folder / "val" / "val_annotations.txt").write_text(table)
        (folder / "test" / "images").mkdir(parents=True)
    return images


@pytest.mark.parametrize("layout", ["tiny", "test", "val"])
def test_folders_of_pictures(layout, two_birds, rng, tmp_path):
    images = write_pictures(tmp_path / "pictures", rng, layout)
    prepared = prepare("tiny_imagenet", [tmp_path / "pictures"], tmp_path)
    assert prepared.notes == ()
    for split, rows, labels in (("train", [0, 1, 2], [0, 0, 1]), ("test", [3, 4], [0, 1])):
        dataset = two_birds.load(str(tmp_path), split)
        loaded = dataset.source.read(np.arange(len(rows)))
        by_label = {}
        for image, label in zip(loaded["image"], loaded["label"], strict=True):
            by_label.setdefault(int(label), []).append(image[0, 0].astype(int))
        for row, label in zip(rows, labels, strict=True):
            # JPEG may be off by a few levels.
            assert any(abs(c - images[row, 0, 0]).max() <= 4 for c in by_label[label])


def test_grey_and_broken_pictures(two_birds, rng, tmp_path):
    write_pictures(tmp_path / "p", rng, "val")
    grey = tmp_path / "p" / "train" / "n02" / "images" / "a.png"
    Image.new("L", (64, 64), 77).save(grey)
    prepare("tiny_imagenet", [tmp_path / "p"], tmp_path)
    dataset = two_birds.load(str(tmp_path), "train")
    loaded = dataset.source.read(np.arange(3))
    assert (loaded["image"][loaded["label"] == 1] == 77).all()

    out = tmp_path / "out"
    grey.write_bytes(b"no picture")
    with pytest.raises(SettingError, match="cannot identify image file"):
        prepare("tiny_imagenet", [tmp_path / "p"], out)
    Image.new("RGB", (32, 64)).save(grey)
    with pytest.raises(SettingError, match=r"a\.png in it is of size \(32, 64\)"):
        prepare("tiny_imagenet", [tmp_path / "p"], out)
    grey.unlink()
    with pytest.raises(SettingError, match="0 of them of class 1; allowed: 3 with 1"):
        prepare("tiny_imagenet", [tmp_path / "p"], out)
    assert not out.exists()


def test_a_folder_names_the_classes_of_a_set_that_has_names(rng, tmp_path):
    for split in ("train", "test"):
        for name in IMAGE_SETS["mnist"].class_names:
            (tmp_path / "p" / split / name).mkdir(parents=True)
            Image.new("L", (28, 28), 20 * int(name)).save(tmp_path / "p" / split / name / "a.png")
    prepare("mnist", [tmp_path / "p"], tmp_path, partial=True)
    loaded = IMAGE_SETS["mnist"].load(str(tmp_path), "test").source.read(np.arange(10))
    assert (loaded["image"][:, 0, 0, 0] == 20 * loaded["label"]).all()
    (tmp_path / "p" / "train" / "9").rename(tmp_path / "p" / "train" / "nine")
    with pytest.raises(SettingError, match="lacks '9'"):
        prepare("mnist", [tmp_path / "p"], tmp_path / "out", partial=True)


def refusal(name, files, tmp_path, **options):
    """The sentence, and that nothing was written."""
    with pytest.raises(SettingError) as caught:
        prepare(name, files, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_other_numbers_than_the_published_need_a_word(rng, tmp_path):
    files = archives.write_idx(tmp_path, archives.random_set("mnist", rng))
    message = refusal("mnist", files, tmp_path)
    assert "the train split of MNIST has 20 images" in message
    assert "60,000 with 5,923" in message
    assert "--partial" in message


def test_exactly_the_published_numbers_need_none(rng, tmp_path, monkeypatch):
    data = archives.random_set("mnist", rng)
    counts = {
        s: tuple(np.bincount(labels, minlength=10).tolist()) for s, (_, labels) in data.items()
    }
    image_set = dataclasses.replace(IMAGE_SETS["mnist"], per_class=counts)
    monkeypatch.setitem(IMAGE_SETS, "mnist", image_set)
    prepared = prepare("mnist", archives.write_idx(tmp_path, data), tmp_path)
    assert prepared.notes == ()
    message = refusal("fashion_mnist", archives.write_idx(tmp_path, data), tmp_path)
    assert "the train split of Fashion-MNIST has 20" in message


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (1, "of train there is only the images file"),
        (2, "no images of the test split of MNIST"),
        (3, "of t10k there is only the images file"),
    ],
)
def test_missing_idx_files(count, message, rng, tmp_path):
    files = archives.write_idx(tmp_path, archives.random_set("mnist", rng))
    assert message in refusal("mnist", files[:count], tmp_path, partial=True)


@pytest.mark.parametrize("suffix", archives.WRITE)
def test_truncated_idx_files(suffix, rng, tmp_path):
    files = archives.write_idx(tmp_path, archives.random_set("mnist", rng), suffix)
    files[0].write_bytes(files[0].read_bytes()[:-200])
    message = refusal("mnist", files, tmp_path, partial=True)
    assert message.startswith(f"{files[0]} cannot be read: ")


def test_idx_files_of_something_else(rng, tmp_path):
    data = archives.random_set("mnist", rng)
    files = archives.write_idx(tmp_path, data)
    files[0].write_bytes(b"\0\0\x0d\x01" + bytes(100))
    assert "an IDX file of bytes" in refusal("mnist", files, tmp_path, partial=True)

    data["train"] = (data["train"][0][:, :20], data["train"][1])
    files = archives.write_idx(tmp_path, data)
    message = refusal("mnist", files, tmp_path, partial=True)
    assert "is (20, 28, 1); allowed: (28, 28, 1)" in message

    data = archives.random_set("mnist", rng)
    data["train"] = (data["train"][0][:-1], data["train"][1])
    message = refusal("mnist", archives.write_idx(tmp_path, data), tmp_path, partial=True)
    assert "number of labels of the train split of MNIST is 20; allowed: 19" in message

    data = archives.random_set("mnist", rng)
    data["test"][1][3] = 10
    message = refusal("mnist", archives.write_idx(tmp_path, data), tmp_path, partial=True)
    assert "a label of the test split of MNIST is 10; allowed: 0 to 9" in message


def test_damaged_and_foreign_tar_archives(rng, tmp_path):
    data = archives.random_set("cifar10", rng)
    files = archives.binary_files("cifar10", data)
    archive = archives.write_tar(tmp_path / "a.tar.gz", files)
    assert "it is CIFAR-10, not CIFAR-100" in refusal("cifar100", [archive], tmp_path)

    damaged = tmp_path / "damaged.tar.gz"
    for size in (0, 20, 5000, archive.stat().st_size - 9):
        damaged.write_bytes(archive.read_bytes()[:size])
        assert "damaged.tar.gz cannot be read" in refusal("cifar10", [damaged], tmp_path)
    flipped = bytearray(archive.read_bytes())
    flipped[-5000] ^= 1
    damaged.write_bytes(flipped)
    assert "damaged.tar.gz cannot be read" in refusal("cifar10", [damaged], tmp_path)

    archives.write_tar(archive, {"cifar-10-batches-bin/test_batch.bin": b"1"})
    assert "data_batch_1.bin" in refusal("cifar10", [archive], tmp_path)
    archives.write_tar(archive, {**files, "cifar-10-batches-bin/test_batch.bin": b"1"})
    assert "cannot be read" in refusal("cifar10", [archive], tmp_path)
    archives.write_tar(archive, {"other/a": b"1"})
    assert "does not hold one of the folders" in refusal("cifar10", [archive], tmp_path)


def test_a_pickle_may_not_call_anything(rng, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "made"), "w"))

    files = archives.python_files("cifar10", archives.random_set("cifar10", rng))
    for raw in (pickle.dumps(Evil()), pickle.dumps({"data": np.array([Evil()])}, protocol=2)):
        archive = archives.write_tar(
            tmp_path / "a.tar.gz", {**files, "cifar-10-batches-py/data_batch_3": raw}
        )
        assert "only arrays are allowed" in refusal("cifar10", [archive], tmp_path)
    objects = files["cifar-10-batches-py/test_batch"].replace(b"u1", b"O8")
    archive = archives.write_tar(
        tmp_path / "a.tar.gz", {**files, "cifar-10-batches-py/test_batch": objects}
    )
    assert "only integers are allowed" in refusal("cifar10", [archive], tmp_path)
    assert not (tmp_path / "made").exists()


def test_damaged_and_foreign_packed_files(rng, tmp_path):
    data = archives.random_set("cifar10", rng, train=1, test=1)
    paths = write_packed(tmp_path, data, "cifar10", rng)
    assert "name 10 classes, which are not those" in refusal("cifar100", paths, tmp_path)
    whole = paths[0].read_bytes()
    paths[0].write_bytes(whole[:-50])
    assert "it is no zip file, or cut short" in refusal("cifar10", paths, tmp_path)
    np.savez(paths[0], x=np.zeros(3))
    assert "cifar10_train.npz lacks 'labels" in refusal("cifar10", paths, tmp_path)
    paths = write_packed(tmp_path, data, "cifar10", rng, freq=np.zeros((3, 144, 256)))
    assert "frequencies" in refusal("cifar10", paths, tmp_path)
    unnamed = paths[0].rename(tmp_path / "cifar10.npz")
    assert "tells neither train nor test" in refusal("cifar10", [unnamed], tmp_path)


def test_files_that_are_none_of_these(tmp_path):
    (tmp_path / "text.txt").write_text("hello")
    assert "no format known here" in refusal("mnist", [tmp_path / "text.txt"], tmp_path)
    assert "No such file" in refusal("mnist", [tmp_path / "absent"], tmp_path)
    assert "No such file" in refusal("cifar10", [tmp_path / "absent.tar.gz"], tmp_path)
    (tmp_path / "empty").mkdir()
    assert "No such file" in refusal("mnist", [tmp_path / "empty"], tmp_path)
    assert "allowed: mnist, fashion_mnist" in refusal("imagenet", [tmp_path / "a"], tmp_path)


def test_a_folder_that_is_there_is_left_alone(rng, tmp_path):
    files = archives.write_idx(tmp_path, archives.random_set("mnist", rng))
    prepared = prepare("mnist", files, tmp_path, partial=True)
    before = sorted((path, path.stat().st_mtime_ns) for path in prepared.folder.iterdir())
    with pytest.raises(SettingError, match="is there already"):
        prepare("mnist", files, tmp_path, partial=True)
    assert sorted((path, path.stat().st_mtime_ns) for path in prepared.folder.iterdir()) == before


def test_a_place_that_cannot_be_written_is_refused(rng, tmp_path):
    files = archives.write_idx(tmp_path, archives.random_set("mnist", rng))
    with pytest.raises(SettingError, match="cannot be written: Not a directory"):
        prepare("mnist", files, files[0], partial=True)
