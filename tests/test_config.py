"""Config files: what is read, what may be overridden, and the sentence of every refusal."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import ml_collections
import numpy as np
import pytest

from dbjax.config import (
    config_differences,
    config_from_json,
    config_to_json,
    load_config,
    section,
)
from dbjax.errors import SettingError, require

CONFIG = """
import ml_collections
from ml_collections.config_dict import placeholder, required_placeholder

def get_config():
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.model = dict(name="dit", width=64, dropout=0.1, remat=False, patch=None)
    config.model.head = dict(width=8)
    config.partition = dict(num_blocks=3, layers=(4, 4, 4), edges=[0.0, 0.5], names=())
    config.partition.pairs = ((1, 2),)
    config.train = dict(steps=placeholder(int), lr=1e-3, tag=placeholder(str), betas=(0, 0.5))
    config.train.clip = placeholder(float)
    config.train.clip = 1
    config.train.warmup = config.train.get_ref("lr") * 2
    return config
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path, CONFIG)


def write(folder: Path, text: str, name: str = "small.py") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def refusal(path: object, overrides: Any = ()) -> str:
    """Return the sentence with which a config is refused."""
    with pytest.raises(SettingError) as caught:
        load_config(str(path), overrides)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def test_require_refuses_with_one_sentence() -> None:
    require(True, "model.width", 7, "anything")
    with pytest.raises(SettingError, match=r"^model\.width is 7; allowed: multiples of 8$"):
        require(False, "model.width", 7, "multiples of 8")
    assert issubclass(SettingError, ValueError)


# --- loading --------------------------------------------------------------------------------------


def test_a_config_is_loaded_locked_and_afresh(file: Path) -> None:
    first = load_config(file, ["seed=1"])
    second = load_config(str(file))
    assert (first.seed, second.seed) == (1, 0)
    with pytest.raises(AttributeError):
        first.model.depth = 3


def test_an_edited_file_is_read_again(tmp_path: Path) -> None:
    text = "def get_config(): return dict(a={})"
    assert load_config(write(tmp_path, text.format(1))).a == 1
    assert load_config(write(tmp_path, text.format(2))).a == 2
    assert [path.name for path in tmp_path.iterdir()] == ["small.py"]


def test_a_variant_is_handed_to_get_config(tmp_path: Path) -> None:
    text = "def get_config(variant='base'): return dict(size={'base': 1, 'big': 2}[variant])"
    file = write(tmp_path, text)
    assert load_config(file).size == 1
    assert load_config(f"{file}:big").size == 2
    assert refusal(f"{file}:huge") == f"{file}, line 1 fails with KeyError: 'huge'"


def test_a_missing_variant_is_asked_for(tmp_path: Path) -> None:
    file = write(tmp_path, "def get_config(variant): return dict(a=1)")
    assert refusal(file) == f"{file} has variants: name one, as in {file}:variant"


def test_a_variant_of_a_file_without_variants_is_refused(file: Path) -> None:
    assert refusal(f"{file}:big") == f"{file} has no variants; found 'big'"


def test_a_missing_file_is_refused_with_those_that_are_there(file: Path) -> None:
    write(file.parent, "", "__init__.py")
    write(file.parent, "", "large.py")
    folder = file.parent
    assert refusal(folder / "smal.py") == (
        f"config file {folder / 'smal.py'} does not exist;"
        f" config files in {folder}: large.py, small.py"
    )
    assert refusal(folder).startswith(f"config file {folder} does not exist")


def test_a_missing_folder_is_refused_with_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert refusal("configs/small.py:big") == (
        f"config file {Path('configs/small.py')} does not exist, nor does its folder;"
        f" the working directory is {tmp_path}"
    )


@pytest.mark.parametrize(
    ("text", "ending"),
    [
        ("x = 1\n", " has no function get_config(), which returns the config"),
        ("get_config = 3\n", " has no function get_config(), which returns the config"),
        ("import nowhere\n", ", line 1 fails with ModuleNotFoundError: No module named 'nowhere'"),
        ("def get_config(:\n", ", line 1 fails with SyntaxError: invalid syntax"),
        (
            "def get_config():\n    return wdith\n",
            ", line 2 fails with NameError: name 'wdith' is not defined",
        ),
        ("def get_config():\n    raise ValueError('a\\nb')", ", line 2 fails with ValueError: a b"),
        (
            "from dbjax.errors import require\n"
            "def get_config():\n    require(False, 'size', 3, '4')\n",
            ": size is 3; allowed: 4",
        ),
    ],
)
def test_a_broken_file_is_named_with_its_error(tmp_path: Path, text: str, ending: str) -> None:
    file = write(tmp_path, text)
    assert refusal(file) == f"{file}{ending}"


def test_another_result_than_a_config_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, "def get_config(): return 3")
    assert (
        refusal(file)
        == f"get_config() of {file} returns an object of type int; allowed: a ConfigDict"
    )


def test_what_must_be_set_is_asked_for(tmp_path: Path) -> None:
    text = CONFIG.replace("steps=placeholder(int)", "steps=required_placeholder(int)")
    file = write(tmp_path, text)
    assert refusal(file) == f"{file} leaves open what must be set: train.steps"
    assert load_config(file, ["train.steps=5"]).train.steps == 5
    assert refusal(file, ["train.steps=None"]) == "train.steps is None; allowed: an int"


# --- overrides ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("seed=7", 7),
        ("--config.seed=-7", -7),
        ("model.name=vit", "vit"),
        ("model.name=5", "5"),
        ("model.name=a=b", "a=b"),
        ("model.dropout=1", 1.0),
        ("model.dropout=2.5e-4", 2.5e-4),
        ("model.dropout=inf", float("inf")),
        ("model.remat=true", True),
        ("model.remat=False", False),
        ("model.patch=4", 4),
        ("model.patch=half", "half"),
        ("model.patch=(2, 2)", (2, 2)),
        ("model.head.width=16", 16),
        ("partition.layers=(3,6,3)", (3, 6, 3)),
        ("partition.layers=[2, 4, 6]", (2, 4, 6)),
        ("partition.layers=2,4,6", (2, 4, 6)),
        ("partition.edges=(0, 0.25)", [0.0, 0.25]),
        ("partition.names=('a', 'b')", ("a", "b")),
        ("partition.pairs=((1, 2), (3, 4))", ((1, 2), (3, 4))),
        ("train.steps=100", 100),
        ("train.steps=none", None),
        ("train.tag=7", "7"),
        ("train.betas=(1, 0.9)", (1.0, 0.9)),
        ("train.warmup=0.5", 0.5),
        ("train.clip=2", 2.0),
        ("train.clip=None", None),
    ],
)
def test_a_command_line_override_takes_the_type_of_the_file(
    file: Path, override: str, value: object
) -> None:
    key = override.removeprefix("--config.").partition("=")[0]
    found = load_config(file, [override])
    for part in key.split("."):
        found = found[part]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("overrides", "key", "value"),
    [
        ({"partition.num_blocks": 4}, "num_blocks", 4),
        ({"partition.num_blocks": np.int64(4)}, "num_blocks", 4),
        ({"partition": {"num_blocks": 2, "layers": [6, 6]}}, "layers", (6, 6)),
        ({"partition.edges": (0.0, 1.0)}, "edges", [0.0, 1.0]),
    ],
)
def test_a_mapping_overrides_as_the_command_line_does(
    file: Path, overrides: Mapping[str, object], key: str, value: object
) -> None:
    found = load_config(file, overrides).partition[key]
    assert found == value
    assert type(found) is type(value)


def test_the_later_override_wins_and_derived_values_follow(file: Path) -> None:
    config = load_config(file, ["train.lr=1", "train.lr=2"])
    assert (config.train.lr, config.train.warmup) == (2.0, 4.0)


@pytest.mark.parametrize(
    "text", ["partition.num_blocks", "=4", "--seed=4", "a..b=1", "model head=2", ""]
)
def test_a_malformed_override_is_refused(file: Path, text: str) -> None:
    assert refusal(file, [text]) == (
        f"override {text!r} is malformed; allowed: section.key=value or --config.section.key=value"
    )


def test_overrides_given_as_one_string_are_refused(file: Path) -> None:
    assert refusal(file, "seed=1") == (
        "overrides is 'seed=1'; allowed: a list of strings or a mapping"
    )


@pytest.mark.parametrize(
    ("key", "rest"),
    [
        (
            "partition.num_block",
            "nearest: partition.num_blocks; keys of partition:"
            " edges, layers, names, num_blocks, pairs",
        ),
        (
            "num_blocks",
            "nearest: partition.num_blocks; keys of the file: model, partition, seed, train",
        ),
        (
            "trian.lr",
            "nearest: train.lr; keys of the file: model, partition, seed, train",
        ),
        ("model.head.zzz", "keys of model.head: width"),
        (
            "model.heat.width",
            "nearest: model.head.width, model.width; keys of model:"
            " dropout, head, name, patch, remat, width",
        ),
        ("modle.zzz", "nearest: model; keys of the file: model, partition, seed, train"),
        ("seed.zzz", "nearest: seed; keys of the file: model, partition, seed, train"),
    ],
)
@pytest.mark.parametrize("as_mapping", [False, True])
def test_an_unknown_key_is_refused_with_the_nearest(
    file: Path, key: str, rest: str, as_mapping: bool
) -> None:
    overrides: Any = {key: 1} if as_mapping else [f"{key}=1"]
    assert refusal(file, overrides) == f"{key} is no key of {file}; {rest}"


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["seed=four"], "seed is 'four'; allowed: an int"),
        (["seed=1.0"], "seed is 1.0; allowed: an int"),
        (["seed=true"], "seed is True; allowed: an int"),
        (["seed="], "seed is ''; allowed: an int"),
        (["model.dropout=much"], "model.dropout is 'much'; allowed: a number"),
        (["model.remat=1"], "model.remat is 1; allowed: true or false"),
        (["partition.layers=6"], "partition.layers is 6; allowed: a list, each element an int"),
        (
            ["partition.layers=(1, 'a')"],
            "partition.layers is (1, 'a'); allowed: a list, each element an int",
        ),
        (["partition.names=a"], "partition.names is 'a'; allowed: a list"),
        (["train.clip=x"], "train.clip is 'x'; allowed: a number or None"),
        (["train.steps=1.5"], "train.steps is 1.5; allowed: an int or None"),
        (["model.head=3"], "model.head is a section and cannot be set to '3'; its keys: width"),
        ({"model.head": 3}, "model.head is a section and cannot be set to 3; its keys: width"),
        ({"seed": True}, "seed is True; allowed: an int"),
        ({"seed": "4"}, "seed is '4'; allowed: an int"),
        ({"seed": None}, "seed is None; allowed: an int"),
        ({"model.name": 4}, "model.name is 4; allowed: a string"),
        ({"model": {"dropout": "x"}}, "model.dropout is 'x'; allowed: a number"),
    ],
)
def test_a_value_of_another_type_is_refused(
    file: Path, overrides: Sequence[str] | Mapping[str, object], sentence: str
) -> None:
    assert refusal(file, overrides) == sentence


# --- sections -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Model:
    width: int
    dropout: float = 0.0
    remat: bool = False
    layers: tuple[int, ...] = (1, 2)
    size: tuple[int, float] = (1, 1.0)
    patch: int | None = None
    sigma: Literal["edm", "linear"] = "edm"
    rate: float | str = "auto"
    names: list[str] = dataclasses.field(default_factory=list)
    extra: Mapping[str, object] = dataclasses.field(default_factory=dict)
    anything: Any = None

    def __post_init__(self) -> None:
        require(self.width % 8 == 0, "width", self.width, "multiples of 8")


def model(**values: object) -> Model:
    return section(Model, ml_collections.ConfigDict({"model": values}), "model")


def test_a_section_becomes_a_dataclass() -> None:
    built = model(
        width=16,
        dropout=1,
        layers=[3, 6],
        size=[2, 3],
        patch=4,
        sigma="linear",
        rate=0.5,
        names=("a",),
        extra={"a": 1},
    )
    assert built == Model(
        16, 1.0, False, (3, 6), (2, 3.0), 4, "linear", 0.5, names=["a"], extra={"a": 1}
    )
    assert type(built.dropout) is float
    assert type(built.size[1]) is float
    assert model(width=8) == Model(8)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"width": True}, "model.width is True; allowed: an int"),
        ({"width": 8.0}, "model.width is 8.0; allowed: an int"),
        ({"dropout": "x"}, "model.dropout is 'x'; allowed: a number"),
        ({"dropout": False}, "model.dropout is False; allowed: a number"),
        ({"remat": 1}, "model.remat is 1; allowed: true or false"),
        ({"layers": 3}, "model.layers is 3; allowed: a list, each element an int"),
        ({"layers": [True]}, "model.layers is [True]; allowed: a list, each element an int"),
        ({"size": [1]}, "model.size is [1]; allowed: a list of 2 (an int, a number)"),
        ({"patch": "2"}, "model.patch is '2'; allowed: an int or None"),
        ({"sigma": "cosine"}, "model.sigma is 'cosine'; allowed: 'edm' or 'linear'"),
        ({"extra": 3}, "model.extra is 3; allowed: a Mapping"),
        ({"width": 7}, "width is 7; allowed: multiples of 8"),
    ],
)
def test_a_wrong_value_in_a_section_is_refused(values: dict[str, object], sentence: str) -> None:
    with pytest.raises(SettingError) as caught:
        model(**({"width": 8} | values))
    assert str(caught.value) == sentence


def test_an_unknown_key_in_a_section_is_refused_with_the_allowed_ones() -> None:
    with pytest.raises(SettingError) as caught:
        model(width=8, layer=3)
    assert str(caught.value) == (
        "model.layer is no setting of Model; nearest: layers; allowed: width (no default),"
        " dropout=0.0, remat=False, layers=(1, 2), size=(1, 1.0), patch=None, sigma='edm',"
        " rate='auto', names=[], extra={}, anything=None"
    )


def test_a_section_that_lacks_a_setting_or_is_none_is_refused() -> None:
    with pytest.raises(SettingError) as caught:
        model()
    assert str(caught.value) == "section model lacks width, which Model has no default for"
    config = ml_collections.ConfigDict({"model": 3, "data": {}})
    with pytest.raises(SettingError, match=r"^model is 3; allowed: a section, settings of Model$"):
        section(Model, config, "model")
    with pytest.raises(
        SettingError, match=r"^section train is missing; sections there: data, model$"
    ):
        section(Model, config, "train")


# --- saving and comparing -------------------------------------------------------------------------


def test_a_config_survives_json(file: Path) -> None:
    config = load_config(file)
    text = config_to_json(config)
    again = config_from_json(text)
    assert config_to_json(again) == text
    assert config_differences(config, again) == []
    assert again.is_locked
    assert text.startswith('{\n  "model": {\n    "dropout": 0.1,\n')
    assert text.endswith("}\n")


def test_a_value_without_json_form_is_refused() -> None:
    config = ml_collections.ConfigDict({"model": {"scale": {1.5}}})
    with pytest.raises(SettingError, match=r"^model\.scale is \{1\.5\}; allowed: numbers, "):
        config_to_json(config)


def test_a_damaged_saved_config_is_refused() -> None:
    with pytest.raises(SettingError, match=r"^the saved config is not JSON: "):
        config_from_json('{"model": ')
    with pytest.raises(SettingError, match=r"^the saved config is \[1\]; allowed: a JSON object"):
        config_from_json("[1]")


def test_differences_are_sentences(file: Path) -> None:
    there = load_config(file)
    here = load_config(file, {"model.width": 512, "partition.layers": (6, 6), "train.steps": 9})
    with here.unlocked():
        here.seeds = 3
        del here["seed"]
    assert config_differences(there, here) == [
        "model.width: 64 there, 512 here",
        "partition.layers: [4, 4, 4] there, [6, 6] here",
        "seed: 0 there, absent here",
        "seeds: absent there, 3 here",
        "train.steps: None there, 9 here",
    ]
    assert config_differences(there, here, ignore=["model", "train.steps", "seed"]) == [
        "partition.layers: [4, 4, 4] there, [6, 6] here",
        "seeds: absent there, 3 here",
    ]
