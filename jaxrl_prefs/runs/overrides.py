"""Sets fields of frozen dataclasses from text such as `eta=0.1`, by each field's type."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import numpy as np

from jaxrl_prefs.errors import ConfigError

C = TypeVar("C")

TRUE, FALSE = ("true", "yes", "1"), ("false", "no", "0")


def split(assignment: str) -> tuple[str, str]:
    """Splits `field=value` into its two parts."""
    name, equals, value = assignment.partition("=")
    if not equals or not name.strip():
        raise ConfigError(f"--set takes field=value, and got {assignment!r}")
    return name.strip(), value.strip()


def apply(config: C, assignments: Sequence[str]) -> C:
    """Returns `config` with each `field=value` of `assignments` applied, the last one winning.

    Raises:
        ConfigError: for an unknown field, and for a value of another type than the field's.
    """
    changes = dict(map(split, assignments))
    types = field_types(type(config))
    for name in changes:
        if name not in types:
            raise ConfigError(unknown("field", name, types))
    return replace(config, {name: parse(name, text, types[name]) for name, text in changes.items()})


def replace(config: C, values: Mapping[str, Any]) -> C:
    """`dataclasses.replace` whose complaints about values are OverrideErrors."""
    try:
        return dataclasses.replace(config, **values)  # type: ignore[type-var]
    except ValueError as error:
        raise ConfigError(str(error)) from error


def field_types(config_class: type) -> dict[str, Any]:
    """Returns {field: its annotated type} in the order of the dataclass."""
    hints = typing.get_type_hints(config_class)
    return {field.name: hints[field.name] for field in dataclasses.fields(config_class)}


def number_readers(config_class: type) -> dict[str, Callable[[str, Any], float]]:
    """Returns {field: reader(text, spec)} of the text fields whose values stand for numbers.

    Such a field is declared with `dataclasses.field(metadata={"as_number": reader})`; a sweep can
    then train its values together.
    """
    fields = dataclasses.fields(config_class)
    return {f.name: f.metadata["as_number"] for f in fields if "as_number" in f.metadata}


def unknown(kind: str, name: str, valid: Sequence[str] | Mapping[str, Any]) -> str:
    """Says that there is no such name, guesses the one that was meant, and lists all of them."""
    close = difflib.get_close_matches(name, list(valid), n=1)
    guess = f" Did you mean {close[0]!r}?" if close else ""
    return f"no {kind} {name!r}.{guess} Valid: {', '.join(sorted(valid))}"


def parse(name: str, text: str, kind: Any) -> Any:
    """Reads `text` as a value of the type `kind`: int, float, bool, str, Literal or tuple."""
    try:
        return _reader(kind)(text)
    except KeyError:  # of a method of the user's own
        raise ConfigError(f"field {name!r} takes {_describe(kind)}, not a text") from None
    except ValueError:
        message = f"field {name!r} takes {_describe(kind)}, and got {text!r}"
        raise ConfigError(message) from None


def check(name: str, value: Any, kind: Any) -> Any:
    """Returns a Python value as one of the type `kind`, NumPy's numbers as Python's own.

    An int may be written as 1e5, a float as 1, a tuple as a list. A value of a type that `parse`
    does not know, which only a user's own method can have, is taken as it is.

    Raises:
        ConfigError: if it is of another type.
    """
    try:
        return _converted(value, kind)
    except (TypeError, ValueError):
        message = f"field {name!r} takes {_describe(kind)}, and got {value!r}"
        raise ConfigError(message) from None


def _converted(value: Any, kind: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        if value not in arguments:
            raise ValueError
        return value
    if origin is tuple:
        if isinstance(value, str):
            raise ValueError
        kinds = itertools.repeat(arguments[0]) if arguments[-1] is Ellipsis else arguments
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise ValueError
        return tuple(_converted(item, each) for item, each in zip(value, kinds, strict=False))
    if kind not in (int, float, bool, str):
        return value
    if isinstance(value, bool | np.bool_) or kind is bool:
        if kind is not bool or not isinstance(value, bool | np.bool_):
            raise ValueError
        return bool(value)
    if kind is str:
        if not isinstance(value, str):
            raise ValueError
        return value
    if not isinstance(value, int | float | np.integer | np.floating) or math.isnan(value):
        raise ValueError
    if kind is int and value != int(value):
        raise ValueError
    return kind(value)


def _reader(kind: Any) -> Callable[[str], Any]:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return lambda text: _choice(text, arguments)
    if origin is tuple:
        item = _reader(arguments[0])
        return lambda text: tuple(
            item(part.strip()) for part in text.strip("()").split(",") if part
        )
    readers: dict[Any, Callable[[str], Any]] = {int: _int, float: _float, bool: _bool, str: str}
    return readers[kind]


def _describe(kind: Any) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin is tuple:
        return f"{_describe(arguments[0])} values separated by commas"
    known = {int: "an int", float: "a float", bool: "true or false", str: "text"}
    return known.get(kind, str(kind))


def kind(annotation: Any) -> str:
    """A field's type in one word, or its choices.

    >>> kind(Literal["auto", "loop"]), kind(tuple[int, ...]), kind(bool), kind(str)
    ('auto|loop', 'int,int,...', 'true|false', 'text')
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return "|".join(map(str, arguments))
    if origin is tuple:
        return f"{kind(arguments[0])},{kind(arguments[0])},..."
    words = {int: "int", float: "float", bool: "true|false", str: "text"}
    return words.get(annotation, str(annotation))


def _int(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        number = float(text)  # 1e5 is a handy way to write a number of steps
        if not number.is_integer():
            raise ValueError from None
        return int(number)


def _float(text: str) -> float:
    number = float(text)
    if math.isnan(number):
        raise ValueError
    return number


def _bool(text: str) -> bool:
    if text.lower() in TRUE + FALSE:
        return text.lower() in TRUE
    raise ValueError


def _choice(text: str, choices: Sequence[Any]) -> Any:
    named = {str(choice): choice for choice in choices}
    if text not in named:
        raise ValueError
    return named[text]
