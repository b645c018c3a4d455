"""Config files: loading, overriding, checking, saving and comparing.

A config file is Python with a function ``get_config()`` that returns an ``ml_collections``
``ConfigDict``; with a parameter, ``get_config(variant)``, the file is named ``path.py:variant``.

The file's own values are the schema: an override must name a key that is there and have the type of
the value that is there. A section is then read into a frozen dataclass, whose annotations are the
second check. All of it works alike on a command line and in a notebook: no flag of the process is
parsed, so ``load_config`` can be called any number of times.

Every refusal is a `SettingError` of one sentence.
"""

import ast
import collections.abc
import dataclasses
import difflib
import inspect
import json
import numbers
import os
import traceback
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from ml_collections import ConfigDict, FieldReference
from ml_collections.config_dict import RequiredValueError, placeholder

from dbjax.errors import SettingError

T = TypeVar("T")

_WORDS = {"true": True, "false": False, "none": None}


def load_config(
    path: str | os.PathLike[str], overrides: Sequence[str] | Mapping[str, object] = ()
) -> ConfigDict:
    """Load a config file and apply overrides to it.

    Args:
      path: ``configs/name.py``, or ``configs/name.py:variant`` for a file with variants, or what
        `config_to_json` wrote, ``run/config.json``.
      overrides: either command-line strings, ``partition.num_blocks=4`` or
        ``--config.partition.num_blocks=4``, or a mapping, ``{"partition.num_blocks": 4}``, whose
        values may themselves be mappings of a section's keys. Later ones win.

    Returns:
      The config, locked: keys can be changed, not added.

    Raises:
      SettingError: the file is missing, has no ``get_config`` or fails; an override is malformed,
        names a key that the file does not have, or has another type than the file's value.
    """
    file, variant = _split_variant(os.fspath(path))
    config = _run(file, variant) if file.suffix != ".json" else _read_json(file)
    if isinstance(overrides, Mapping):
        for key, value in overrides.items():
            _override(config, str(key), value, file)
    elif isinstance(overrides, str):
        raise SettingError(f"overrides is {overrides!r}; allowed: a list of strings or a mapping")
    else:
        for text in overrides:
            key, value = _split_override(text)
            _override(config, key, value, file, from_text=True)
    unset = [key for key, value in _flatten(config, keep_references=True) if _is_unset(value)]
    if unset:
        raise SettingError(f"{file} leaves open what must be set: {', '.join(unset)}")
    return config.lock()


def section(cls: type[T], config: ConfigDict, name: str) -> T:
    """Build the dataclass `cls` from the section `name` of a config.

    An int is taken where a float is declared, and a list where a tuple is; nothing else is
    converted.

    Raises:
      SettingError: the section is missing, has a key that `cls` does not have, lacks one without a
        default, or holds a value of another type than the annotation's; or what `cls` itself
        raises.
    """
    if name not in config:
        raise SettingError(f"section {name} is missing; sections there: {_names(config)}")
    values = config[name]
    if not isinstance(values, ConfigDict):
        raise SettingError(f"{name} is {values!r}; allowed: a section, settings of {cls.__name__}")
    kinds = get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cast(Any, cls)) if field.init}
    arguments = {}
    for key, value in values.to_dict().items():
        if key not in fields:
            allowed = ", ".join(_with_default(field) for field in fields.values())
            near = _nearest(difflib.get_close_matches(key, fields))
            raise SettingError(
                f"{name}.{key} is no setting of {cls.__name__};{near} allowed: {allowed}"
            )
        arguments[key] = _fitted(value, kinds[key], f"{name}.{key}")
    missing = [key for key, field in fields.items() if key not in arguments and _is_needed(field)]
    if missing:
        raise SettingError(
            f"section {name} lacks {', '.join(missing)}, which {cls.__name__} has no default for"
        )
    return cls(**arguments)


def defaults(cls: type) -> ConfigDict:
    """Return the section that `section` reads as ``cls()``: every field with its default.

    A field that may be None is a typed placeholder: an override may be None or of that type.
    """
    kinds = get_type_hints(cls)
    result = ConfigDict()
    for field in dataclasses.fields(cls):
        members = [get_origin(kind) or kind for kind in _members(kinds[field.name])]
        value = field.default
        if type(None) in members:
            value = placeholder(next(kind for kind in members if kind is not type(None)))
            value.set(field.default)
        result[field.name] = value
    return result


def config_to_json(config: ConfigDict) -> str:
    """Write a config as JSON: keys sorted, indented, the same text for the same config.

    Raises:
      SettingError: a value has no JSON form, such as a function.
    """
    for key, value in _flatten(config):
        if not _is_plain(value):
            raise SettingError(
                f"{key} is {value!r}; allowed: numbers, strings, true, false, None and lists of"
                " them, because the config is saved as JSON"
            )
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def config_from_json(text: str) -> ConfigDict:
    """Read what `config_to_json` wrote, locked; tuples come back as lists.

    Raises:
      SettingError: `text` is not JSON, or not that of a config.
    """
    try:
        values = json.loads(text)
    except ValueError as error:
        raise SettingError(f"the saved config is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise SettingError(f"the saved config is {values!r}; allowed: a JSON object of sections")
    return ConfigDict(values).lock()


def config_differences(a: ConfigDict, b: ConfigDict, ignore: Iterable[str] = ()) -> list[str]:
    """Say where two configs differ, as ``model.width: 384 there, 512 here``.

    Args:
      a: the config that is *there*, such as that of the run to be resumed.
      b: the config that is *here*.
      ignore: dotted keys, or whole sections, that may differ.

    Returns:
      One sentence for each key, in the keys' order; empty where the configs agree. A list and a
      tuple of equal elements agree, for JSON does not tell them apart.
    """
    ignored = tuple(ignore)
    there = {key: _as_lists(value) for key, value in _flatten(a)}
    here = {key: _as_lists(value) for key, value in _flatten(b)}
    differences = []
    for key in sorted(there.keys() | here.keys()):
        if any(key == skip or key.startswith(f"{skip}.") for skip in ignored):
            continue
        if key not in there or key not in here or there[key] != here[key]:
            sides = (repr(side[key]) if key in side else "absent" for side in (there, here))
            differences.append("{}: {} there, {} here".format(key, *sides))
    return differences


# --- the file -------------------------------------------------------------------------------------


def _split_variant(path: str) -> tuple[Path, str | None]:
    # Split at ".py:" and not at the first colon, which may belong to a drive letter.
    stem, separator, variant = path.partition(".py:")
    return (Path(f"{stem}.py"), variant) if separator else (Path(path), None)


def _run(file: Path, variant: str | None) -> ConfigDict:
    """Return what the ``get_config`` of a config file returns, as a ConfigDict."""
    if not file.is_file():
        raise _missing(file)
    # Compiled here rather than imported: an import would leave the module behind, and could serve
    # stale bytecode to a notebook whose user has just edited the file.
    module = types.ModuleType(file.stem)
    module.__file__ = str(file)
    try:
        exec(compile(file.read_bytes(), str(file), "exec"), module.__dict__)
    except Exception as error:
        raise _inside(file, error) from error
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise SettingError(f"{file} has no function get_config(), which returns the config")
    arguments = () if variant is None else (variant,)
    try:
        inspect.signature(get_config).bind(*arguments)
    except TypeError as error:
        if variant is None:
            raise SettingError(f"{file} has variants: name one, as in {file}:variant") from error
        raise SettingError(f"{file} has no variants; found {variant!r}") from error
    try:
        config = get_config(*arguments)
    except Exception as error:
        raise _inside(file, error) from error
    if isinstance(config, dict):
        config = ConfigDict(config)
    if not isinstance(config, ConfigDict):
        raise SettingError(
            f"get_config() of {file} returns an object of type {type(config).__name__};"
            " allowed: a ConfigDict"
        )
    return config


def _read_json(file: Path) -> ConfigDict:
    if not file.is_file():
        raise _missing(file)
    return config_from_json(file.read_text()).unlock()


def _missing(file: Path) -> SettingError:
    if not file.parent.is_dir():
        return SettingError(
            f"config file {file} does not exist, nor does its folder; the working directory is"
            f" {Path.cwd()}"
        )
    there = sorted(path.name for path in file.parent.glob("*.py") if path.name != "__init__.py")
    return SettingError(
        f"config file {file} does not exist; config files in {file.parent}:"
        f" {', '.join(there) or 'none'}"
    )


def _inside(file: Path, error: Exception) -> SettingError:
    """Name the file and the line of an error that a config file raised."""
    text = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    if isinstance(error, SettingError):
        return SettingError(f"{file}: {text}")
    if isinstance(error, SyntaxError):
        lines = [error.lineno] if error.filename == str(file) else []
    else:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(file)]
    place = f", line {lines[-1]}" if lines else ""
    return SettingError(f"{file}{place} fails with {type(error).__name__}: {text}")


# --- overrides ------------------------------------------------------------------------------------


def _split_override(text: str) -> tuple[str, str]:
    key, separator, value = text.removeprefix("--config.").partition("=")
    parts = key.strip().split(".")
    if not separator or not all(part.isidentifier() for part in parts):
        raise SettingError(
            f"override {text!r} is malformed; allowed: section.key=value or"
            " --config.section.key=value"
        )
    return ".".join(parts), value.strip()


def _override(
    config: ConfigDict, key: str, value: object, file: Path, from_text: bool = False
) -> None:
    *parents, last = key.split(".")
    holder = config
    for depth, part in enumerate(parents):
        child = _fields(holder).get(part)
        if not isinstance(child, ConfigDict):
            raise _unknown(config, key, holder, parents[:depth], file)
        holder = child
    if last not in holder:
        raise _unknown(config, key, holder, parents, file)
    child = _fields(holder)[last]
    if isinstance(child, ConfigDict):
        if from_text or not isinstance(value, Mapping):
            raise SettingError(
                f"{key} is a section and cannot be set to {value!r}; its keys: {_names(child)}"
            )
        for name, inner in value.items():
            _override(config, f"{key}.{name}", inner, file)
        return
    kind = _kind_of(child)
    holder[last] = _fitted(_read(str(value), kind) if from_text else value, kind, key)


def _fields(config: ConfigDict) -> dict[str, Any]:
    """Return the fields of one section, placeholders and references as they are."""
    return dict(config.items(preserve_field_references=True))


def _unknown(
    config: ConfigDict, key: str, holder: ConfigDict, parents: list[str], file: Path
) -> SettingError:
    """Say that `key` fails in the section `holder`, which `parents` lead to."""
    parts = key.split(".")
    everywhere = [name for name, _ in _flatten(config, keep_references=True)]
    near = [name for name in everywhere if name.split(".")[-1] == parts[-1]]
    if not near:
        close = difflib.get_close_matches(parts[len(parents)], map(str, holder.keys()))
        near = [".".join([*parents, name]) for name in close]
    place = ".".join(parents) or "the file"
    return SettingError(
        f"{key} is no key of {file};{_nearest(near)} keys of {place}: {_names(holder)}"
    )


def _nearest(names: list[str]) -> str:
    return f" nearest: {', '.join(names)};" if names else ""


def _names(config: ConfigDict) -> str:
    return ", ".join(sorted(map(str, config.keys()))) or "none"


def _is_unset(value: object) -> bool:
    """Say whether a value is a required placeholder that nobody has filled."""
    if isinstance(value, FieldReference):
        try:
            value.get()
        except RequiredValueError:
            return True
    return False


# --- types ----------------------------------------------------------------------------------------


def _kind_of(value: object) -> Any:
    """Return the annotation that a value of a config file stands for."""
    if isinstance(value, FieldReference):
        declared = value.get_type()
        members = declared if isinstance(declared, tuple) else (declared,)
        if not _is_unset(value):
            # A placeholder that has a value may go back to None; nothing tells it from another
            # reference, for which the dataclass of the section refuses None.
            known = () if value.get() is None else (_kind_of(value.get()),)
            members = (*(known or members), None)
        return Union[(*members,)]
    if value is None:
        return Any
    if isinstance(value, tuple | list):
        kinds = {_kind_of(element) for element in value}
        if kinds == {int, float}:
            kinds = {float}
        if not kinds:
            return type(value)
        kind = kinds.pop() if len(kinds) == 1 else Any
        return types.GenericAlias(type(value), (kind, ...) if isinstance(value, tuple) else (kind,))
    return type(value)


def _read(text: str, kind: Any) -> object:
    """Read the text of a command-line override as Python, where it is meant as such."""
    members = _members(kind)
    if text.lower() == "none" and type(None) in members:
        return None
    if str in members:
        return text
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if float in members:
        try:
            return float(text)
        except ValueError:
            return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def _members(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _fitted(value: object, kind: Any, name: str) -> Any:
    try:
        return _fit(value, kind)
    except TypeError as error:
        raise SettingError(f"{name} is {value!r}; allowed: {_describe(kind)}") from error


def _fit(value: Any, kind: Any) -> object:
    """Return `value` as `kind`, converted where nothing is lost.

    Raises:
      TypeError: it is of another type.
    """
    if kind is Any or kind is object:
        return value
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    if origin in (Union, types.UnionType):
        # The member of the very type first: 3 stays an int for `float | int`.
        for member in sorted(arguments, key=lambda member: type(value) is not member):
            try:
                return _fit(value, member)
            except TypeError:
                continue
    elif origin is Literal:
        if any(value == choice and type(value) is type(choice) for choice in arguments):
            return value
    elif kind in (int, float):
        # A bool is an int to Python, never to a user; numpy's scalars are numbers to both.
        abstract = numbers.Integral if kind is int else numbers.Real
        if not isinstance(value, bool) and isinstance(value, abstract):
            return kind(value)
    elif origin in (tuple, list, collections.abc.Sequence):
        if isinstance(value, tuple | list):
            container = list if origin is list else tuple
            return container(map(_fit, value, _element_kinds(origin, arguments, len(value))))
    elif isinstance(value, origin):
        return value
    raise TypeError


def _element_kinds(origin: Any, arguments: tuple[Any, ...], length: int) -> list[Any]:
    if not arguments:
        return [Any] * length
    if origin is tuple and arguments[-1] is not ...:
        if len(arguments) != length:
            raise TypeError
        return list(arguments)
    return [arguments[0]] * length


def _describe(kind: Any) -> str:
    """Say in words what a value of `kind` is."""
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(map(_describe, arguments))
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if origin in (tuple, list, collections.abc.Sequence):
        if not arguments:
            return "a list"
        if origin is tuple and arguments[-1] is not ...:
            return f"a list of {len(arguments)} ({', '.join(map(_describe, arguments))})"
        return f"a list, each element {_describe(arguments[0])}"
    words = {bool: "true or false", int: "an int", float: "a number", str: "a string"}
    words |= {type(None): "None", Any: "anything"}
    return words.get(kind) or f"a {getattr(origin, '__name__', origin)}"


def _is_needed(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _with_default(field: dataclasses.Field[Any]) -> str:
    if _is_needed(field):
        return f"{field.name} (no default)"
    if field.default is not dataclasses.MISSING:
        return f"{field.name}={field.default!r}"
    return f"{field.name}={cast(Any, field.default_factory)()!r}"


# --- values ---------------------------------------------------------------------------------------


def _flatten(
    config: ConfigDict, prefix: str = "", keep_references: bool = False
) -> Iterator[tuple[str, Any]]:
    """Yield every dotted key with its value."""
    for key, value in config.items(preserve_field_references=keep_references):
        if isinstance(value, ConfigDict):
            yield from _flatten(value, f"{prefix}{key}.", keep_references)
        else:
            yield f"{prefix}{key}", value


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


def _as_lists(value: object) -> object:
    return [_as_lists(element) for element in value] if isinstance(value, tuple | list) else value
