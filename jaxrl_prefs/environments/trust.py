"""What a file may decide about the environment that its policies are evaluated in.

A dataset may come from anybody, and Gymnasium's record of an environment (EnvSpec) names code: an
entry point, wrappers, a module before the colon of an id, arguments that are files or classes. Of a
file's record only the id, plain arguments and the time limit are taken. The code is that which is
registered with Gymnasium for the id. Everything else is refused, unless the user says that the file
is trusted. docs/security.md says the same for users.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxrl_prefs.environments import task
from jaxrl_prefs.environments.task import Task
from jaxrl_prefs.errors import DataError

# Text that is neither a path, nor an import path, nor an expression.
WORD = r"([A-Za-z0-9][A-Za-z0-9 _+-]*)?"
# Words in the name of an argument whose text is read as a file, or as code.
CODE = (
    r"files?|filenames?|filepath|xml|mjcf|urdf|usd|paths?|dirs?|directory|folder|modules?|package|"
    r"imports?|plugins?|library|class|classes|cls|classname|entry|entrypoint|callables?|callbacks?|"
    r"functions?|func|fn|factory|constructor|wrappers?|script|code|command|cmd|exec|eval|shell|"
    r"url|uri|checkpoint|pickle"
)
DEEPEST = 16  # levels of lists and mappings in an argument
LONGEST = 2**31 - 1  # steps of an episode

ROBOSUITE = "jaxrl_prefs.environments.robosuite_task:Robosuite"
ROBOSUITE_ID = r"jaxrl_prefs/Robosuite[A-Za-z0-9]*-v0"


class Refusal(NamedTuple):
    """Why the environment that a file names is not made."""

    env_id: str  # as the file says; empty if it says none
    reason: str
    trust_helps: bool = True  # False: the record is damaged, so that nobody can make it

    def __str__(self) -> str:
        about = f"{self.env_id}: " if self.env_id else ""
        return f"{'not trusted' if self.trust_helps else 'unreadable'}: {about}{self.reason}"


class Claim(NamedTuple):
    """What a file says about its environment; neither a task nor a refusal: it says nothing."""

    task: Task | None = None
    refused: Refusal | None = None

    @property
    def env_id(self) -> str:
        """The id that the file names, refused or not."""
        if self.task is not None:
            return self.task.env_id
        return self.refused.env_id if self.refused else ""


class _No(Exception):
    """Ends the reading of a record; holds the reason."""

    def __init__(self, reason: str, *, trust_helps: bool = True) -> None:
        super().__init__(reason)
        self.trust_helps = trust_helps


def claim(record: Any, place: str, longest: int, *, trust_env: bool = False) -> Claim:
    """Reads the EnvSpec that a file holds, as JSON text.

    Args:
      record: what stands in the file, of any type.
      place: where it stands, for messages: "env_spec in metadata.json".
      longest: the time limit for environments that have none of their own.
      trust_env: take the record as it is, with the code that it names.
    """
    env_id = ""
    try:
        content = _content(record, place)
        env_id = _id(content, place)
        limit = _limit(content, longest)
        read = _trusted if trust_env else _checked
        return Claim(read(content, env_id, limit))
    except _No as fault:
        return Claim(refused=Refusal(env_id, str(fault), fault.trust_helps))


def parsed(record: Any) -> dict[str, Any]:
    """The fields of an EnvSpec in JSON, for display; none where it cannot be read."""
    try:
        return _content(record, "")
    except _No:
        return {}


def robosuite(name: Any, settings: Any, keys: Any, limit: int, *, trust_env: bool = False) -> Claim:
    """The task `name` of robosuite with the `settings` (env_kwargs) that a file names.

    Args:
      name: robosuite's own name of the task.
      settings: keyword values.
      keys: of the observations.
      limit: steps of an episode.
      trust_env: take any settings.
    """
    try:
        return Claim(_robosuite(name, settings, keys, limit, trust_env))
    except _No as fault:
        return Claim(refused=Refusal(_shown(name), str(fault), fault.trust_helps))


def _robosuite(name: Any, settings: Any, keys: Any, limit: int, trust_env: bool) -> Task:
    if not isinstance(name, str) or not isinstance(settings, Mapping):
        raise _No("the record of robosuite's task is damaged", trust_helps=False)
    if not re.fullmatch(r"[A-Za-z]\w*", name):
        raise _No("this is no name of a task of robosuite", trust_helps=False)
    if not trust_env:
        _check_plain(settings)
    if not isinstance(keys, Sequence) or not all(re.fullmatch(r"\w+", str(key)) for key in keys):
        raise _No("the observation keys are damaged", trust_helps=False)
    content = {
        "id": f"jaxrl_prefs/Robosuite{re.sub(r'[^A-Za-z0-9]', '', name)}-v0",
        "entry_point": ROBOSUITE,
        "max_episode_steps": limit,
        "kwargs": {"task": name, "settings": dict(settings), "keys": list(keys)},
        "additional_wrappers": [],
    }
    return task.recorded(json.dumps(content), 0)


def _content(record: Any, place: str) -> dict[str, Any]:
    try:
        content = json.loads(record)
    except (TypeError, ValueError, RecursionError) as fault:
        first = (str(fault) or type(fault).__name__).splitlines()[0]
        raise _No(f"{place} is no JSON text ({first})", trust_helps=False) from fault
    if not isinstance(content, dict):
        raise _No(f"{place} holds no mapping", trust_helps=False)
    return content


def _id(content: Mapping[str, Any], place: str) -> str:
    env_id = content.get("id")
    if not isinstance(env_id, str) or not env_id:
        raise _No(f"{place} has no id", trust_helps=False)
    return env_id if re.fullmatch(r"[\w./:+-]{1,200}", env_id) else _shown(env_id)


def _limit(content: Mapping[str, Any], longest: int) -> int:
    limit = content.get("max_episode_steps")
    if limit is None:
        limit = longest
    if isinstance(limit, bool) or not isinstance(limit, int) or not 0 < limit <= LONGEST:
        raise _No(f"max_episode_steps={_shown(limit)} is no time limit", trust_helps=False)
    return limit


# --- without trust --------------------------------------------------------------------------------


def _checked(content: Mapping[str, Any], env_id: str, limit: int) -> Task:
    """The registered environment of that id, with the file's plain arguments and time limit."""
    entry = content.get("entry_point")
    if re.fullmatch(ROBOSUITE_ID, env_id) and _same_package(entry, ROBOSUITE):
        told = _kwargs(content)
        return _robosuite(told.get("task"), told.get("settings"), told.get("keys"), limit, False)
    if ":" in env_id:
        raise _No("the id names a module to import")
    import gymnasium

    if env_id not in gymnasium.registry:
        task.register(env_id)
    spec = gymnasium.registry.get(env_id)
    if spec is None:
        named = "" if entry is None else f", and the file's entry point {_shown(entry)} is not run"
        if package := _missing_package(entry):
            named += f"; its package {package} is not installed"
        raise _No(f"Gymnasium has no environment of this id registered{named}")
    own = _entry_point(spec)
    if entry is not None and not _same_package(entry, own):
        raise _No(f"its entry point {_shown(entry)} is not the registered one, {own}")
    known = [dataclasses.asdict(each) for each in spec.additional_wrappers]
    _, dropped = _split_wrappers([each for each in _wrappers(content) if each not in known])
    kwargs = copy.deepcopy(spec.kwargs)
    if "kwargs" in content:
        kwargs = _kwargs(content)
        _check_plain({key: x for key, x in kwargs.items() if (key, x) not in spec.kwargs.items()})
    kwargs.pop("render_mode", None)  # evaluations draw nothing
    made = {
        **{name: getattr(spec, name) for name in ("reward_threshold", "nondeterministic")},
        **{name: getattr(spec, name) for name in ("order_enforce", "disable_env_checker")},
        "id": env_id,
        "entry_point": own,
        "max_episode_steps": limit,
        "kwargs": kwargs,
        "additional_wrappers": known,
    }
    try:
        return task.recorded(json.dumps(made), 0)._replace(without=dropped)
    except TypeError as fault:
        raise _No(f"its registered arguments are not plain: {fault}", trust_helps=False) from fault


def _entry_point(spec: Any) -> str:
    entry = spec.entry_point
    return f"{entry.__module__}:{entry.__qualname__}" if callable(entry) else str(entry)


def _missing_package(entry: Any) -> str:
    """The package of an entry point if it is not on this machine; nothing is imported."""
    name = re.split(r"[.:]", entry)[0] if isinstance(entry, str) else ""
    try:
        absent = name.isidentifier() and importlib.util.find_spec(name) is None
    except (ImportError, ValueError):  # a module that was loaded in an unusual way
        return ""
    return name if absent else ""


def _same_package(entry: Any, own: str) -> bool:
    """Packages move their modules about between versions; the registered place is the right one."""
    if not isinstance(entry, str):
        return False
    return entry == own or re.split(r"[.:]", entry)[0] == re.split(r"[.:]", own)[0]


def _split_wrappers(
    wrappers: Sequence[Mapping[str, Any]], *, trust_env: bool = False
) -> tuple[list[Mapping[str, Any]], tuple[str, ...]]:
    """The wrappers to make again, and the names of those that cannot be, having no arguments."""
    kept, dropped = [], []
    for each in wrappers:
        name = _shown(each.get("name"))
        if each.get("kwargs") is None:  # Gymnasium did not record its arguments
            dropped.append(name)
        elif trust_env:
            kept.append(each)
        else:
            raise _No(f"its wrapper {name} would import {_shown(each.get('entry_point'))}")
    return kept, tuple(dropped)


def _wrappers(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    wrappers = content.get("additional_wrappers") or []
    if not isinstance(wrappers, list) or not all(isinstance(each, dict) for each in wrappers):
        raise _No("additional_wrappers is no list of mappings", trust_helps=False)
    return wrappers


def _kwargs(content: Mapping[str, Any]) -> dict[str, Any]:
    kwargs = content.get("kwargs", {})
    if not isinstance(kwargs, dict):
        raise _No(f"kwargs={_shown(kwargs)} is no mapping", trust_helps=False)
    return dict(kwargs)


def _check_plain(values: Mapping[str, Any], depth: int = 0) -> None:
    """Refuses keyword values by which a file could choose code or another file."""
    for name, value in values.items():
        if not re.fullmatch(r"[A-Za-z]\w*", name):
            raise _No(f"its argument {_shown(name)} is no plain name")
        words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
        telling = any(re.fullmatch(CODE, word.lower()) for word in words)
        if telling and isinstance(value, str | list | dict):
            raise _No(f"its argument {name}={_shown(value)} may name a file or code")
        _check_value(name, value, depth)


def _check_value(name: str, value: Any, depth: int) -> None:
    if depth > DEEPEST:
        raise _No(f"its argument {name} is nested too deeply")
    if isinstance(value, str) and not re.fullmatch(WORD, value):
        raise _No(f"its argument {name}={_shown(value)} may name a file or code")
    if isinstance(value, list):
        for each in value:
            _check_value(name, each, depth + 1)
    elif isinstance(value, dict):
        _check_plain(value, depth + 1)


def _shown(value: Any) -> str:
    """A file's value on one line of bounded length, without control characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:76]}..."


# --- with trust -----------------------------------------------------------------------------------


def _trusted(content: dict[str, Any], env_id: str, limit: int) -> Task:
    """The environment as the file says, its own code included."""
    try:
        bare = task.import_home(env_id)
    except DataError as fault:
        raise _No(str(fault), trust_helps=False) from fault
    content = {**content, "id": bare, "max_episode_steps": limit}
    kept, dropped = _split_wrappers(_wrappers(content), trust_env=True)
    content["additional_wrappers"] = kept
    if content.get("entry_point") is None:
        content["entry_point"] = _registered_entry_point(bare)
    found = task.recorded(json.dumps(content), 0)._replace(without=dropped)
    try:
        found.spec()
    except Exception as fault:  # Gymnasium's own check of the record
        first = (str(fault) or type(fault).__name__).splitlines()[0]
        raise _No(f"Gymnasium cannot read the record: {first}", trust_helps=False) from fault
    return found


def _registered_entry_point(env_id: str) -> str:
    import gymnasium

    task.register(env_id)
    if env_id not in gymnasium.registry:
        raise _No("Gymnasium has no environment of this id registered", trust_helps=False)
    return _entry_point(gymnasium.registry[env_id])
