"""What a run is made of: the run's own fields, the method's fields, and where values come from.

Later sources win: dataclass defaults, the data family (reward transform, gamma, normalisation),
a preset (`--preset` says which), `--set`.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxrl_prefs import data
from jaxrl_prefs.data import ActionChunk, Dataset, Hints, Processing
from jaxrl_prefs.errors import ConfigError
from jaxrl_prefs.runs import overrides, presets
from jaxrl_prefs.runs.methods import find_method
from jaxrl_prefs.runs.renamed import present_names
from jaxrl_prefs.runs.sinks import LOGGERS

LARGEST_SEED = 2**31 - 1
MOST_SEEDS = 100_000
OWN_FLAGS = ("algo", "dataset", "env", "seeds")
_COUNTS = ("eval_episodes", "eval_every", "log_every", "checkpoint_every", "keep")


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """The fields of a run that do not belong to its method."""

    # --- what is trained on what; each has a flag of its own
    algo: str = "bdpo"
    dataset: str = "pendulum-mixed"
    env: str = ""  # evaluate here; empty takes the environment that the dataset names
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    # where the other fields start: "default" is the papers' settings of the dataset, its robot or
    # its family; "cpu" is small networks and few updates, which some datasets have
    preset: Literal["default", "cpu"] = "default"
    # --- data; the defaults are those of the dataset's family
    gamma: float = 0.99  # discount per step
    # a reward r becomes reward_scale * r / range + reward_shift; the range is 1 for "affine", and
    # the largest less the smallest return of an episode for "range"; for "sparse" r is 0 where it
    # is 0, and else -1
    reward: Literal["affine", "range", "sparse"] = "affine"
    reward_scale: float = 1.0  # factor of every reward
    reward_shift: float = 0.0  # added to every reward
    normalize_observations: bool = False  # to mean 0 and standard deviation 1
    clip_actions: bool = False  # to the action space; without it, actions outside are refused
    frame_stack: int = 3  # of observations with images: frames that are seen at once
    holdout: float = 0.0  # share of the episodes that are measured and not trained on
    n_step: int = 1  # steps (with chunks: chunks) whose rewards are summed before a target's value
    action_chunk: int = 1  # actions that a policy chooses at a time
    replan: int = 0  # of these, actions that are played before the next choice; 0 plays them all
    # --- evaluation: at the end of every phase, and in the last one every eval_every updates
    eval_episodes: int = 10  # episodes for each seed, policy and evaluation
    eval_every: int = 50_000  # updates between evaluations in the last phase
    eval_seed: int = 10_000  # of the environments; the same for every training seed
    # where policies are played; "mjx" is on the device, "auto" takes it there and not on a CPU
    eval_backend: Literal["auto", "gymnasium", "mjx"] = "auto"
    # --- records
    log_every: int = 1_000  # updates per row of metrics
    checkpoint_every: int = 10_000  # updates, rounded up to the next row of metrics
    # in place of checkpoint_every, minutes of training between checkpoints; 0 counts updates
    checkpoint_minutes: float = 0.0
    keep: int = 2  # newest checkpoints to keep
    log: tuple[str, ...] = ()  # besides JSONL files: tensorboard, wandb
    # of the products of hidden layers; all else is computed in float32
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    # on a GPU, only operations that give the same bits in every run; a CPU's always do
    deterministic: bool = False
    # --- images, where observations have any (docs/pixels.md)
    encoder: Literal["drq", "impala_small", "two_layers"] = (
        "drq"  # convolutions before the method's networks
    )
    # the policy reads the critics' encoder ("shared"), or has one of its own ("separate")
    encoder_sharing: Literal["shared", "separate"] = "shared"
    encoder_features: int = 50  # numbers that stand for an image
    encoder_learning_rate: float = 3e-4  # Adam's rate for the encoder
    image_shift: int = 4  # pixels by which images are shifted at random in training; 0 for none
    # how seeds share a device: one after the other, or side by side
    mapping: Literal["auto", "loop", "vmap"] = "auto"

    def __post_init__(self) -> None:
        for name in (*_COUNTS, "n_step", "action_chunk", "frame_stack", "encoder_features"):
            if getattr(self, name) < 1:
                raise ValueError(f"field {name!r} must be at least 1, got {getattr(self, name)}")
        for name in self.log:
            if name not in LOGGERS:
                raise ValueError(
                    f"field 'log' takes {', '.join(LOGGERS)}, separated by commas, and got {name!r}"
                )
        if not 0 <= self.checkpoint_minutes < math.inf:
            raise ValueError(
                "field 'checkpoint_minutes' must be at least 0 and finite, got "
                f"{self.checkpoint_minutes}"
            )
        if not 0 <= self.holdout < 1:
            raise ValueError(f"field 'holdout' must be at least 0 and below 1, got {self.holdout}")
        if not 0 <= self.replan <= self.action_chunk:
            raise ValueError(
                f"field 'replan' must lie in 1 to action_chunk={self.action_chunk}, or be 0 to "
                f"play whole chunks, got {self.replan}"
            )
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"field 'gamma' must lie in 0 to 1, got {self.gamma}")
        if not 0 <= self.eval_seed <= LARGEST_SEED:
            raise ValueError(f"field 'eval_seed' must lie in 0 to {LARGEST_SEED}")

    @property
    def processing(self) -> Processing:
        """The fields that turn a recording into a dataset."""
        return Processing(**{name: getattr(self, name) for name in Processing._fields})

    @property
    def chunk(self) -> ActionChunk:
        """How many actions a policy chooses at a time, and how many of them are played."""
        return chunk_of(self.action_chunk, self.replan)


def chunk_of(action_chunk: int, replan: int) -> ActionChunk:
    """The chunk of two fields of a run; a `replan` of 0 plays whole chunks."""
    return ActionChunk(action_chunk, replan or action_chunk)


@dataclasses.dataclass(frozen=True)
class Choice:
    """What a command line or a call of `train` asks for, before the data are known."""

    algo: str
    dataset: str
    env: str
    seeds: tuple[int, ...]
    assignments: tuple[str, ...]  # of --set
    trust_env: bool = False  # not part of a run's config: what is trained does not depend on it
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # fields, from Python
    method: Any = None  # the method itself, where `algo` is only what it is called
    data: Dataset | None = None  # the dataset itself, where `dataset` is only what it is called
    make_env: Callable[[], Any] | None = None  # makes the environment that `env` only names
    init: str = ""  # RUN or RUN:phase, a run after whose phase this one starts
    donors: tuple[Path, ...] = ()  # runs of the same command, whose phases may be the same
    hints: Hints | None = None  # what the data do not say themselves; their checksum tells the rest

    @property
    def module(self) -> Any:
        """The method's module. Raises ConfigError as `find_method`."""
        return find_method(self.algo if self.method is None else self.method)


def parse_seeds(text: str) -> tuple[int, ...]:
    """Reads `5` as 0 to 4, `3:8` as 3 to 7 and `1,4` as those two."""
    try:
        if "," in text:
            seeds = [int(part) for part in text.split(",") if part.strip()]
        elif ":" in text:
            first, last = text.split(":")
            seeds = _range(text, int(first), int(last))
        else:
            seeds = _range(text, 0, int(text))
    except ConfigError:
        raise
    except ValueError:
        raise ConfigError(
            f"--seeds takes a number of seeds (5), a range (3:8) or a list (1,4), and got {text!r}"
        ) from None
    return listed_seeds(seeds, f"--seeds={text}")


def listed_seeds(seeds: int | Sequence[int], shown: str = "") -> tuple[int, ...]:
    """The seeds that a number (5 is 0 to 4) or a list of them stands for; `shown` is for errors.

    Raises:
        ConfigError: if there is none, one comes twice, or one is not a seed.
    """
    shown = shown or f"seeds={seeds!r}"
    try:
        listed = list(range(operator.index(seeds))) if np.ndim(seeds) == 0 else list(seeds)  # type: ignore[arg-type]
        whole = tuple(operator.index(seed) for seed in listed)
    except TypeError:
        raise ConfigError(f"{shown} must be a number of seeds, or a list of them") from None
    if not whole or len(set(whole)) < len(whole) or not all(0 <= s <= LARGEST_SEED for s in whole):
        raise ConfigError(
            f"{shown} must name at least one seed, each once and within 0 to {LARGEST_SEED}"
        )
    return whole


def _range(text: str, first: int, last: int) -> list[int]:
    if last - first > MOST_SEEDS:
        raise ConfigError(f"--seeds={text} names {last - first} seeds; {MOST_SEEDS} are the most")
    return list(range(first, last))


def check(choice: Choice) -> None:
    """Finds what is wrong with a choice before anything slow is done.

    Raises:
        ConfigError: for an unknown method or field, for a value of the wrong type, and for a preset
            that a dataset of a known name does not have.
    """
    run = requested(choice)
    is_path = choice.data is None and Path(choice.dataset).expanduser().exists()
    if run.preset == presets.CPU_PRESET and choice.dataset and not is_path:
        presets.check_cpu(data.ALIASES.get(choice.dataset, choice.dataset), choice.algo)


def requested(choice: Choice) -> RunConfig:
    """The run's config of a choice, as far as it does not depend on the data. Raises as `check`."""
    return _split(RunConfig(algo=choice.algo), choice.module.Config(), choice)[0]


def fields(algo: str) -> set[str]:
    """What `--set` takes for a method: the run's fields and its own.

    Raises:
        ConfigError: for an unknown method.
    """
    own = overrides.field_types(find_method(algo).Config)
    return (overrides.field_types(RunConfig).keys() | own.keys()) - set(OWN_FLAGS)


def check_known(names: Iterable[str], algos: Iterable[str]) -> None:
    """Checks that every field belongs to one of the methods at least.

    Raises:
        ConfigError: naming the first that does not.
    """
    algos = list(algos)
    known = set[str]().union(*map(fields, algos))
    now = {old: new for algo in algos for old, new in present_names(algo).items()}
    for name in names:
        if name in OWN_FLAGS:
            raise ConfigError(_own_flag(name))
        if name not in known and name in now:
            raise ConfigError(f"no field {name!r}: it is called {now[name]!r}")
        if name not in known:
            raise ConfigError(overrides.unknown("field", name, sorted(known)))


def _own_flag(name: str) -> str:
    return f"field {name!r} has a flag of its own: --{name}"


def resolve(choice: Choice, name: str, family: str, env_id: str = "") -> tuple[RunConfig, Any]:
    """Returns the run's config and the method's config of a choice on a dataset.

    Args:
        choice: the command line.
        name: the dataset's full name, by which presets are found.
        family: the data family, whose defaults hold where there is no row.
        env_id: of the environment that the dataset names, which may tell the robot.

    Raises:
        ConfigError: as `check`.
    """
    asked = dict(algo=choice.algo, env=choice.env, seeds=choice.seeds, dataset=name)
    run = overrides.replace(RunConfig(), asked | data.defaults(family)._asdict())
    method = choice.module.Config()
    row = presets.overrides_for(name, family, choice.algo, env_id, _preset_of(choice))
    run, method = _fill(run, method, row)
    run = _own_scale(run, choice)
    return _split(run, method, choice)


def _preset_of(choice: Choice) -> str:
    """The field `preset` of a choice, which decides where other fields start."""
    kind = overrides.field_types(RunConfig)["preset"]
    if "preset" in choice.values:
        return str(overrides.check("preset", choice.values["preset"], kind))
    asked = dict(map(overrides.split, choice.assignments))
    return str(overrides.parse("preset", asked.get("preset", presets.DEFAULT), kind))


def _own_scale(run: RunConfig, choice: Choice) -> RunConfig:
    """Drops the scale that belongs to rewards divided by their range, if these are not asked for.

    A thousandth of the range of returns is no unit of raw rewards.
    """
    asked = dict(map(overrides.split, choice.assignments)) | dict(choice.values)
    if run.reward == "range" and asked.get("reward", "range") != "range":
        plain = RunConfig()
        return overrides.replace(
            run, {"reward_scale": plain.reward_scale, "reward_shift": plain.reward_shift}
        )
    return run


def _fill(run: RunConfig, method: Any, values: Mapping[str, Any]) -> tuple[RunConfig, Any]:
    """Replaces fields of both configs, each value going to the config that has the field."""
    own = overrides.field_types(RunConfig)
    run = overrides.replace(run, {k: v for k, v in values.items() if k in own})
    return run, overrides.replace(method, {k: v for k, v in values.items() if k not in own})


def _split(run: RunConfig, method: Any, choice: Choice) -> tuple[RunConfig, Any]:
    """Applies a choice's fields to both configs, each to the one that has the field."""
    own, others = overrides.field_types(RunConfig), overrides.field_types(type(method))
    assignments = choice.assignments
    for name in [*(overrides.split(text)[0] for text in assignments), *choice.values]:
        if name in OWN_FLAGS:
            raise ConfigError(_own_flag(name))
        if name not in own and name not in others:
            if now := present_names(run.algo).get(name):
                raise ConfigError(f"no field {name!r}: it is called {now!r}")
            valid = sorted((own.keys() | others.keys()) - set(OWN_FLAGS))
            raise ConfigError(overrides.unknown("field", name, valid))
    mine = [text for text in assignments if overrides.split(text)[0] in own]
    theirs = [text for text in assignments if text not in mine]
    run, method = overrides.apply(run, mine), overrides.apply(method, theirs)
    checked = {k: overrides.check(k, v, (own | others)[k]) for k, v in choice.values.items()}
    run = overrides.replace(run, {k: v for k, v in checked.items() if k in own})
    return run, overrides.replace(method, {k: v for k, v in checked.items() if k not in own})
