"""FID's network against the same written apart in NumPy, with random weights."""

import sys

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from dbjax.errors import SettingError
from dbjax.metrics.image_features import FeatureNetwork
from dbjax.metrics.inception import InceptionFeatures, checked, parameter_shapes, resize
from dbjax.metrics.weights import read_weights, weights_checksum
from tests.metrics import inception_reference as reference

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def tensors():
    """Weights that keep the size of what passes through."""
    rng = np.random.default_rng(0)

    def draw(name, shape):
        if name.endswith("conv.weight"):
            return rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))
        if name.endswith(("bn.weight", "running_var")):
            return rng.uniform(0.5, 1.5, size=shape)
        return 0.1 * rng.normal(size=shape)

    return {name: draw(name, shape).astype("f4") for name, shape in parameter_shapes().items()}


def nothing(**changes):
    """Parameters of the right shapes that take no memory."""
    shapes = {**parameter_shapes(), **changes}
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


def test_it_has_the_parameters_of_the_published_network():
    shapes = parameter_shapes()
    # Torchvision's without its auxiliary head has 23,834,568, for 1,000 classes.
    learned = sum(np.prod(s) for name, s in shapes.items() if "running" not in name)
    assert learned == 23_834_568 + 8 * 2049
    assert sum(name.endswith("conv.weight") for name in shapes) == 94
    assert shapes["Conv2d_1a_3x3.conv.weight"] == (32, 3, 3, 3)
    assert shapes["Mixed_6c.branch7x7dbl_2.conv.weight"] == (160, 160, 7, 1)
    assert shapes["Mixed_7c.branch3x3_2b.conv.weight"] == (384, 384, 3, 1)
    assert shapes["fc.weight"] == (1008, 2048)


def test_images_are_resized_as_in_tensorflow_1():
    image = np.array([[0.0, 10.0], [40.0, 50.0]], np.float32)[np.newaxis, :, :, np.newaxis]
    # Point i is at i / 2; the last lies beyond the last pixel and takes its value. Half a pixel
    # further on it would be 0, 2.5, 7.5, 10, and with aligned corners 0, 3.3, 6.7, 10.
    expected = np.add.outer([0, 20, 40, 40], [0, 5, 10, 10])
    np.testing.assert_allclose(resize(jnp.asarray(image), 4)[0, :, :, 0], expected, atol=1e-5)


def test_what_shrinks_is_not_averaged():
    image = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(resize(image, 2)[0, :, :, 0], [[0, 2], [8, 10]])


def test_features_are_those_of_the_network_written_apart(tensors, tmp_path):
    file = tmp_path / "inception.safetensors"
    safetensors.numpy.save_file(tensors, file)
    network = InceptionFeatures(file, batch_size=2)
    assert isinstance(network, FeatureNetwork)
    assert network.name == f"inception-2015-12-05 (weights {weights_checksum(tensors)})"
    # Three in batches of two, and gray, which is shown as three equal channels.
    images = np.random.default_rng(1).integers(256, size=(3, 24, 20, 1), dtype=np.uint8)
    found = network.features(images)
    assert found.vectors.shape == (3, network.size)
    last = np.repeat(images[2:], 3, axis=-1).astype(np.float32)
    x = (np.asarray(resize(jnp.asarray(last))) - 128) / 128
    vectors, maps, logits = reference.network(tensors, x.transpose(0, 3, 1, 2))
    assert maps.shape == (1, 17 * 17 * 7)
    for ours, theirs in zip(found, (vectors, maps, logits), strict=True):
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(ours[2:] / scale, theirs / scale, atol=2e-5)
    assert np.abs(found.vectors[0] - found.vectors[2]).max() > 1e-3


def test_what_does_not_fit_is_refused_by_name():
    assert checked({**nothing(), "Conv2d_1a_3x3.bn.num_batches_tracked": np.zeros(())}, "FILE")
    with pytest.raises(SettingError, match=r"fc.weight of FILE is \(1000, 2048\); allowed: \(1008"):
        checked(nothing(**{"fc.weight": (1000, 2048)}), "FILE")
    lacking = nothing()
    del lacking["Mixed_6d.branch1x1.bn.running_var"]
    with pytest.raises(SettingError, match=r"Mixed_6d.branch1x1.bn.running_var of FILE is not"):
        checked(lacking, "FILE")
    with pytest.raises(SettingError, match=r"FILE holds layers\.conv\.beta, which"):
        checked(nothing(**{"layers.conv.beta": (32,)}), "FILE")


def test_files_that_are_no_weights_are_refused(tmp_path, monkeypatch):
    for name, sentence in (
        ("w.onnx", "w.onnx'; allowed: .safetensors or .pth or .pt"),
        ("w.safetensors", "allowed: a file that is there"),
    ):
        with pytest.raises(SettingError, match=sentence):
            read_weights(tmp_path / name)
    for name in ("w.safetensors", "w.pth"):
        (tmp_path / name).write_bytes(b"no weights")
    with pytest.raises(SettingError, match="not of the format safetensors"):
        read_weights(tmp_path / "w.safetensors")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SettingError, match=r"needs the package 'torch'.*pip install torch"):
        read_weights(tmp_path / "w.pth")


def test_the_checksum_knows_names_and_values():
    weights = {"a": np.zeros(3, np.float32), "b": np.ones(3, np.float32)}
    assert weights_checksum(weights) == weights_checksum(dict(reversed(weights.items())))
    others = [
        {**weights, "a": np.full(3, 1e-6, np.float32)},
        {"c": weights["a"], "b": weights["b"]},
    ]
    assert len({weights_checksum(each) for each in (weights, *others)}) == 3
