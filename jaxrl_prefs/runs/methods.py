"""Which module a method's name stands for: one of ours, or one of the user's.

A module of the user's is imported only where the user names it: on a command line, or in a call
from Python. A name that stands in a run's folder is looked up and never imported.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Mapping
from typing import Any

from jaxrl_prefs.encoded import EncoderConfig, NoEncoder, TooSmall, on_images
from jaxrl_prefs.errors import ConfigError
from jaxrl_prefs.method import Method, with_precision
from jaxrl_prefs.methods import METHODS
from jaxrl_prefs.runs import overrides
from jaxrl_prefs.types import Spec

NEEDED = ("Config", "State", "make")  # what a module must have to be a method


def find_method(method: Any) -> Any:
    """Returns the module of a method, with `Config`, `State` and `make(config, spec)`.

    Args:
        method: a name in METHODS, the dotted name of a module, which is imported, or the module
            itself (any object with those three attributes will do).

    Raises:
        ConfigError: if there is no such method, the module cannot be imported, or it lacks one of
            the three; the message says which.
    """
    if not isinstance(method, str):
        return _checked(method)
    if method in METHODS:
        return METHODS[method]
    return _checked(_imported(method))


def bound(module: Any, config: Any, spec: Spec, run: Mapping[str, Any]) -> Method:
    """The method of a run: of a config, on data of a Spec, with the run's precision and encoders.

    Args:
        module: of the method.
        config: of the method.
        spec: of the data.
        run: the fields of a RunConfig.

    Raises:
        ValueError: for a config that the method refuses.
        ConfigError: for data with images, if the method takes none, or one is too small.
    """
    if not spec.images:
        return with_precision(module.make(config, spec), run["precision"])
    encoder = EncoderConfig(
        encoder=run["encoder"],
        features=run["encoder_features"],
        learning_rate=run["encoder_learning_rate"],
        shift=run["image_shift"],
        sharing=run["encoder_sharing"],
    )
    try:
        method = on_images(lambda spec: module.make(config, spec), spec, encoder)
    except NoEncoder:
        able = [name for name, each in METHODS.items() if each.make(each.Config(), spec).encoders]
        raise ConfigError(
            f"the observations have images, which {name_of(module)} does not take; methods that "
            f"do: {', '.join(able)}"
        ) from None
    except TooSmall as fault:
        raise ConfigError(str(fault)) from None
    return with_precision(method, run["precision"])


def name_of(method: Any) -> str:
    """The name under which a run keeps its method: a key of METHODS, or a dotted name.

    >>> from jaxrl_prefs.methods import td3_bc
    >>> name_of(td3_bc), name_of("iql"), name_of("my_package.my_method")
    ('td3_bc', 'iql', 'my_package.my_method')
    """
    if isinstance(method, str):
        return method
    for name, module in METHODS.items():
        if module is method:
            return name
    if hasattr(method, "__qualname__"):  # a class in place of a module
        return f"{method.__module__}.{method.__qualname__}"
    return getattr(method, "__name__", type(method).__name__)


def known_method(name: Any) -> Any:
    """The module of a name that a folder holds, or None; imports nothing.

    Only our own methods and modules that this process has imported already are looked at.
    """
    if not isinstance(name, str):
        return None
    module = METHODS.get(name) or sys.modules.get(name)
    return module if module is not None and not lacking(module) else None


def lacking(module: Any) -> list[str]:
    """Those of `Config`, `State` and `make` that a module does not have."""
    return [name for name in NEEDED if not hasattr(module, name)]


def _checked(module: Any) -> Any:
    if missing := lacking(module):
        raise ConfigError(
            f"{name_of(module)!r} is no method: it lacks {', '.join(missing)}. A method is a "
            "module with Config, State and make(config, spec)"
        )
    return module


def _imported(name: str) -> Any:
    """Imports a module that the user named; the current folder is looked at last."""
    dotted = re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", name) is not None
    if os.getcwd() not in sys.path and "" not in sys.path:  # as for `python -m`
        sys.path.append(os.getcwd())
    if not dotted or ("." not in name and not _exists(name)):
        known = overrides.unknown("algorithm", name, METHODS)
        raise ConfigError(f"{known}; or a module of your own, such as my_package.my_method")
    try:
        return importlib.import_module(name)
    except Exception as error:  # somebody else's module may fail in any way
        hint = "; is its folder in PYTHONPATH?" if isinstance(error, ModuleNotFoundError) else ""
        raise ConfigError(
            f"cannot import the method {name!r}: {type(error).__name__}: {error}{hint}"
        ) from error


def _exists(name: str) -> bool:
    try:
        return name in sys.modules or importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
