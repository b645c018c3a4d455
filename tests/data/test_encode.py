"""Pictures to latents, with an encoder that averages."""

import json

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from dbjax.data import DataConfig, load_dataset
from dbjax.data.autoencoder import Autoencoder
from dbjax.data.encode import centre_crop, encode_folder
from dbjax.errors import SettingError

SIZES = {"train": {"n02": 3, "n01": 2}, "val": {"n01": 1, "n02": 1}}


class Means:
    """An autoencoder: colours and brightness of 8x8 pixels, which it counts."""

    name = "means"

    def __init__(self, stop_after: int | None = None, scale: float = 1.0) -> None:
        self.calls: list[int] = []
        self._stop_after, self._scale = stop_after, scale

    def encode(self, pictures):
        if len(self.calls) == self._stop_after:
            raise KeyboardInterrupt
        self.calls.append(len(pictures))
        colours = pictures.reshape(-1, 32, 8, 32, 8, 3).mean((2, 4)) / 255 * self._scale
        return np.concatenate([colours, colours.mean(-1, keepdims=True)], axis=-1)

    def decode(self, latents):
        return np.rint(255 * latents[..., :3].clip(0, 1)).repeat(8, 1).repeat(8, 2).astype("u1")


@pytest.fixture
def pictures(tmp_path):
    """A folder as ImageNet's: pictures that differ in size and shade."""
    folder, shade = tmp_path / "imagenet", 0
    for split, classes in SIZES.items():
        for name, count in classes.items():
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                shade += 30
                size = (256 + 20 * number, 260)
                path = folder / split / name / f"{number}.JPEG"
                Image.new("RGB", size, (shade, 255 - shade, 100)).save(path)
    return folder


def latents(folder, split="train"):
    data = load_dataset(DataConfig("imagenet256_latents", data_dir=str(folder), split=split))
    return data.source.read(np.arange(data.info.size))


def test_what_is_encoded_is_read_as_data(pictures, tmp_path):
    encoder = Means()
    assert isinstance(encoder, Autoencoder)
    assert encode_folder(pictures, tmp_path / "out", encoder) == {"train": 5, "test": 2}
    train, test = latents(tmp_path / "out"), latents(tmp_path / "out", "test")
    # Classes are numbered by name; val is the test split.
    assert train["label"].tolist() == [0, 0, 1, 1, 1]
    assert test["label"].tolist() == [0, 1]
    paths = sorted((pictures / "train").rglob("*.JPEG"))
    crops = np.stack([centre_crop(Image.open(path), 256) for path in paths])
    np.testing.assert_array_equal(train["image"], Means().encode(crops).astype(np.float16))
    shown = Means().decode(train["image"].astype(np.float32))
    assert np.abs(shown.astype(int) - crops).max() <= 3  # JPEG's own loss, and 16 bits


def test_a_killed_process_is_continued_and_finished_files_stay(pictures, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        encode_folder(pictures, out, Means(stop_after=2), shard_size=2)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.array_record")}
    assert len(before) == 2
    with pytest.raises(SettingError, match="whose latents are not complete"):
        latents(out)
    encoder = Means()
    encode_folder(pictures, out, encoder, shard_size=2)
    assert encoder.calls == [1, 2]
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    encode_folder(pictures, tmp_path / "at_once", Means(), shard_size=2)
    for path in (tmp_path / "at_once").glob("*.array_record"):
        assert (out / path.name).read_bytes() == path.read_bytes()
    assert sorted(p.name for p in out.iterdir() if p.suffix != ".array_record") == [
        "latents.json",
        "latents.lock",
    ]


def test_a_damaged_or_missing_file_is_made_again_alone(pictures, tmp_path):
    out = tmp_path / "out"
    encode_folder(pictures, out, Means(), shard_size=2)
    whole = latents(out)["image"]
    damaged = out / "train-00001-of-00003.array_record"
    raw = bytearray(damaged.read_bytes())
    raw[-100] ^= 1
    damaged.write_bytes(raw)
    (out / "train-00002-of-00003.array_record").unlink()
    encoder = Means()
    encode_folder(pictures, out, encoder, shard_size=2)
    assert encoder.calls == [2, 1]
    np.testing.assert_array_equal(latents(out)["image"], whole)
    again = Means()
    encode_folder(pictures, out, again, shard_size=2)
    assert again.calls == []


def test_latents_of_something_else_are_refused_and_left_alone(pictures, tmp_path):
    out = tmp_path / "out"
    encode_folder(pictures, out, Means())
    index = (out / "latents.json").read_text()
    other = Means()
    other.name = "medians"
    with pytest.raises(SettingError, match="made with encoder 'means', here it is 'medians'"):
        encode_folder(pictures, out, other)
    with pytest.raises(SettingError, match="other pictures, or in files of another size"):
        encode_folder(pictures, out, Means(), shard_size=3)
    Image.new("RGB", (256, 256)).save(pictures / "train" / "n01" / "new.png")
    with pytest.raises(SettingError, match="other pictures"):
        encode_folder(pictures, out, Means())
    assert (out / "latents.json").read_text() == index
    assert json.loads(index)["complete"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("mine")
    with pytest.raises(SettingError, match=r"holds thesis\.tex, which is not of these latents"):
        encode_folder(pictures, tmp_path / "mine", Means())
    with FileLock(out / "latents.lock"), pytest.raises(SettingError, match="another process"):
        encode_folder(pictures, out, Means())


def test_a_picture_that_cannot_be_read_is_named(pictures, tmp_path):
    broken = pictures / "train" / "n02" / "1.JPEG"
    broken.write_bytes(broken.read_bytes()[:300])
    with pytest.raises(SettingError, match=r"n02.1\.JPEG cannot be read as a picture"):
        encode_folder(pictures, tmp_path / "out", Means(), shard_size=2)
    # What was done before is kept, and the rest follows once the picture is gone.
    done = json.loads((tmp_path / "out" / "latents.json").read_text())["checksums"]
    assert list(done) == ["train-00000-of-00003.array_record"]


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("train/alone.png", r"alone\.png is in no folder of a class"),
        ("val/n03/new.png", r"n03 is a class that the training pictures do not have"),
    ],
)
def test_folders_of_another_layout_are_refused(pictures, tmp_path, path, sentence):
    (pictures / path).parent.mkdir(exist_ok=True)
    Image.new("RGB", (256, 256)).save(pictures / path)
    with pytest.raises(SettingError, match=sentence):
        encode_folder(pictures, tmp_path / "out", Means())
    with pytest.raises(SettingError, match="holds no pictures; allowed: a folder with train"):
        encode_folder(tmp_path / "nothing", tmp_path / "out", Means())
    assert not list(tmp_path.glob("out/*.array_record"))


def test_latents_that_do_not_fit_are_refused(pictures, tmp_path):
    class Small(Means):
        def encode(self, pictures):
            return super().encode(pictures)[:, ::2, ::2]

    with pytest.raises(SettingError, match=r"latents of means is \(16, 16, 4\); allowed"):
        encode_folder(pictures, tmp_path / "a", Small())
    with pytest.raises(SettingError, match="are not finite in 16 bits"):
        encode_folder(pictures, tmp_path / "b", Means(scale=1e6))


def test_a_picture_of_twice_the_size_is_halved_by_its_means():
    pixels = np.random.default_rng(0).integers(256, size=(512, 512, 3), dtype=np.uint8)
    expected = pixels.reshape(256, 2, 256, 2, 3).mean((1, 3))
    found = centre_crop(Image.fromarray(pixels), 256)
    # Pillow rounds after each direction.
    assert np.abs(found - expected).max() <= 1
    assert np.abs(found - expected).mean() < 0.5


def test_the_middle_is_cut_out():
    pixels = np.random.default_rng(0).integers(256, size=(256, 301, 3), dtype=np.uint8)
    found = centre_crop(Image.fromarray(pixels), 256)
    np.testing.assert_array_equal(found, pixels[:, 22:278])


@pytest.mark.parametrize(("width", "height"), [(300, 700), (1100, 530), (257, 256), (100, 90)])
def test_every_size_is_resized_bicubically(width, height):
    ramp = np.add.outer(np.arange(height), np.arange(width)) % 200
    picture = Image.fromarray(ramp.astype(np.uint8)).convert("L")
    found = centre_crop(picture, 256)
    assert found.shape == (256, 256, 3)
    halved = picture.convert("RGB")
    if min(width, height) >= 512:
        halved = halved.reduce(2)
    scale = 256 / min(halved.size)
    size = tuple(round(side * scale) for side in halved.size)
    middle = [(side - 256) // 2 for side in size]
    box = (*middle, middle[0] + 256, middle[1] + 256)
    expected = np.asarray(halved.resize(size, Image.Resampling.BICUBIC).crop(box))
    # Pillow's reduce rounds once, its box filter after each direction.
    assert np.abs(found.astype(int) - expected).max() <= 2 * (min(width, height) >= 512)
