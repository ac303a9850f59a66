"""What `benchmarks.accelerator` measures: its cases, in order of importance."""

from __future__ import annotations

import functools
import gc
import importlib.util
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import flow_rl, sampling, simulators, speed, traces
from jaxrl_prefs.cli.flops import matmul_flops
from jaxrl_prefs.method import PRECISIONS, Method
from jaxrl_prefs.methods import METHODS, arq
from jaxrl_prefs.ops import products
from jaxrl_prefs.parallel import seed_axis
from jaxrl_prefs.runs import overrides
from jaxrl_prefs.training import loop
from jaxrl_prefs.types import Spec

ROUNDS = 3
SAMPLER = "arq.candidates"
TARGETS = ("td3_bc.train", "bdpo.train", "iql.train", SAMPLER, "bdpo.critic", "bdpo.behavior")
PROFILED = TARGETS[:2]
NEEDS = {"mjx": ("mujoco.mjx", "gymnasium"), "gymnasium": ("gymnasium",)}


class Skipped(Exception):
    """A case that this machine cannot run; the message says why."""


class Size(NamedTuple):
    """How large everything is, and how long each case is expected to take."""

    pairs: tuple[tuple[int, str], ...]  # seeds and precision, in order of importance
    targets: tuple[str, ...]  # that are measured at the first pair
    others: tuple[str, ...]  # and at the pairs beyond it
    changes: dict[str, dict[str, Any]]  # fields of a method's Config
    rows: int  # of the data
    widths: dict[str, tuple[int, int, int]]  # products: rows, width, how many in a row
    settled: float  # seconds of a call by which updates are counted
    round_seconds: float  # of all seeds together
    resumed: tuple[int, int]  # seeds, and updates before and after the stop
    profiled: int  # updates under the profiler
    played: tuple[str, int, int]  # environment, episodes, steps of each at most
    seconds: dict[str, float]  # expected, by kind of a case or by target
    budget: float  # seconds in all


_NETS = {"actor_hidden": (8,), "critic_hidden": (8,), "batch_size": 8}
_TINY: dict[str, dict[str, Any]] = {
    "td3_bc": _NETS,
    "iql": _NETS,
    "bdpo": {
        **_NETS,
        **{"diffusion_steps": 2, "critic_ensemble_size": 2, "actor_interval": 2},
        **{"q_samples": 2, "v_samples": 2, "actor_samples": 2},
    },
    "arq": {
        **{"behavior_width": 8, "behavior_blocks": 1, "candidates": 3, "candidate_batch_size": 8},
        **{"sampler_steps": 4, "kth": 2},
    },
}
_SECONDS = {"products": 1.0, "resume": 4.0, "profile": 1.0, "mjx": 5.0, "gymnasium": 3.0}
SIZES = {
    "full": Size(
        pairs=(
            *((1, "float32"), (20, "float32"), (20, "bfloat16"), (64, "float32")),
            *((64, "bfloat16"), (1, "bfloat16"), (5, "float32"), (5, "bfloat16")),
        ),
        targets=TARGETS,
        others=TARGETS,
        changes={"arq": {"candidate_batch_size": 64}},
        rows=speed.ROWS,
        widths={"square": (8192, 8192, 20), "layer": (65_536, 256, 400)},
        settled=0.5,
        round_seconds=1.0,
        resumed=(5, 2_000),
        profiled=40,
        played=("HalfCheetah-v5", 100, 200),
        seconds={
            **{"products": 4.0, "resume": 30.0, "profile": 8.0, "mjx": 90.0, "gymnasium": 15.0},
            **{"td3_bc.train": 12.0, "iql.train": 12.0, SAMPLER: 20.0, "peer": 60.0},
            **{"bdpo.behavior": 15.0, "bdpo.critic": 25.0, "bdpo.train": 40.0},
        },
        budget=480.0,
    ),
    "small": Size(
        pairs=((1, "float32"), (2, "bfloat16")),
        targets=TARGETS,
        others=("td3_bc.train", SAMPLER),
        changes=_TINY,
        rows=2_000,
        widths={"square": (512, 512, 10), "layer": (2_560, 256, 10)},
        settled=0.1,
        round_seconds=0.2,
        resumed=(2, 200),
        profiled=20,
        played=("Pendulum-v1", 10, 50),
        seconds={**dict.fromkeys(TARGETS, 4.0), **_SECONDS, "peer": 20.0},
        budget=90.0,
    ),
    "tiny": Size(
        pairs=((1, "bfloat16"),),
        targets=("td3_bc.train", SAMPLER, "bdpo.behavior"),
        others=(),
        changes=_TINY,
        rows=64,
        widths={"square": (16, 16, 2), "layer": (32, 8, 2)},
        settled=0.001,
        round_seconds=0.001,
        resumed=(1, 4),
        profiled=2,
        played=("Pendulum-v1", 1, 2),
        seconds={**dict.fromkeys(TARGETS, 2.0), **_SECONDS, "peer": 20.0},
        budget=60.0,
    ),
}


class Bench:
    """What the cases share.

    Args:
        size: of SIZES.
        profile: gives the file of a profile by the target's name.
        peer: flow-rl's folder, or "".
    """

    def __init__(self, size: Size, profile: Callable[[str], Path], peer: str = "") -> None:
        self.size, self.profile, self.peer = size, profile, peer
        self.data = speed.dataset(size.rows)
        self.rates: dict[str, float] = {}  # of square products, FLOP per second, by precision
        self._kept: tuple[Any, speed.Case] | None = None

    def config(self, algo: str) -> Any:
        """The method's defaults, with the size's changes."""
        return overrides.replace(METHODS[algo].Config(), self.size.changes.get(algo, {}))

    @functools.cache  # noqa: B019, there is one Bench in a process
    def method(self, algo: str) -> Method:
        """The method, made once."""
        return METHODS[algo].make(self.config(algo), Spec.of(self.data))

    def compiled(self, target: str, seeds: int, precision: str) -> speed.Case:
        """A phase's program; the latest one is kept, for the profile that follows."""
        key = (target, seeds, precision)
        if self._kept is None or self._kept[0] != key:
            self.forget()
            algo, phase = target.split(".")
            method = self.method(algo)
            index = [each.name for each in method.phases].index(phase)
            size = self.size
            self._kept = (
                key,
                speed.compiled(
                    *(method, index, self.data, seeds, precision),
                    round_seconds=size.round_seconds / seeds,
                    settled=size.settled,
                ),
            )
        return self._kept[1]

    def forget(self) -> None:
        """Frees the devices' memory."""
        self._kept = None
        gc.collect()


class Case(NamedTuple):
    """One measurement, and how many seconds it is expected to take."""

    kind: str
    name: str
    seeds: int
    precision: str
    expected: float
    run: Callable[[Bench], dict[str, Any]]


def cases(size: Size, peer: bool = False) -> list[Case]:
    """All cases, the most important first: one seed, more seeds, BDPO's early phases at more."""
    found = [
        _case(size, "products", functools.partial(product_rate, shape, name), shape, precision=name)
        for shape, name in itertools.product(size.widths, PRECISIONS)
    ]
    found.append(_case(size, "resume", resume, "td3_bc", size.resumed[0]))
    first, *more = size.pairs
    for target in size.targets:
        found.append(_rate_case(size, target, first))
        if target in PROFILED:
            run = functools.partial(profile, target, *first)
            found.append(_case(size, "profile", run, target, *first))
    rest = [
        _rate_case(size, target, pair)
        for targets in (TARGETS[:4], TARGETS[4:])
        for pair in more
        for target in targets
        if target in size.others
    ]
    found += rest[:4]
    for backend in NEEDS:
        found.append(_case(size, backend, functools.partial(evaluation, backend), size.played[0]))
    if peer:
        found.append(_case(size, "peer", peer_rate, "bdpo.train"))
    return found + rest[4:]


def _case(
    size: Size, kind: str, run: Any, name: str, seeds: int = 1, precision: str = "float32"
) -> Case:
    seconds = size.seconds.get(kind, size.seconds.get(name, 0.0))
    return Case(kind, name, seeds, precision, seconds, run)


def _rate_case(size: Size, target: str, pair: tuple[int, str]) -> Case:
    measured = samples if target == SAMPLER else updates
    return _case(size, "rate", functools.partial(measured, target, *pair), target, *pair)


# --- The measurements -----------------------------------------------------------------------------


def product_rate(shape: str, precision: str, bench: Bench) -> dict[str, Any]:
    """FLOP per second of products as networks compute them at a precision."""
    with jax.default_matmul_precision(PRECISIONS[precision]):
        measure = speed.yardstick(*bench.size.widths[shape], product=products.hidden)
        found = [measure() for _ in range(ROUNDS)]
    rate = float(np.median(found))
    if shape == "square":
        bench.rates[precision] = rate
    return {"rate": rate / 1e12, "unit": "TFLOP", **spread(np.asarray(found) / 1e12)}


def spread(rates: np.ndarray) -> dict[str, float]:
    """The slowest and the fastest round."""
    return {"least": float(rates.min()), "most": float(rates.max())}


def updates(target: str, seeds: int, precision: str, bench: Bench) -> dict[str, Any]:
    """Updates of one seed per second, all seeds added."""
    case = bench.compiled(target, seeds, precision)
    rates = np.zeros(ROUNDS)
    for turn in range(ROUNDS):
        start = speed.clock()
        case.run(case.updates)
        rates[turn] = seeds * case.updates / (speed.clock() - start)
    return {
        **_rate(bench, rates, "updates", case.flops, precision),
        "compile_seconds": case.compile_seconds,
        "program_bytes": case.program_bytes,
        "temporary_bytes": case.temporary_bytes,
    }


def _rate(
    bench: Bench, rates: np.ndarray, unit: str, flops: float, precision: str
) -> dict[str, Any]:
    rate, peak = float(np.median(rates)), bench.rates.get(precision)
    of_peak = rate * flops / peak if peak else None
    return {"rate": rate, "unit": unit, **spread(rates), "flops": flops, "of_peak": of_peak}


def samples(target: str, seeds: int, precision: str, bench: Bench) -> dict[str, Any]:
    """ARQ's samples per second, all seeds added, each seed with a model of its own."""
    del target
    bench.forget()
    config = overrides.replace(arq.Config(), bench.size.changes.get("arq", {}))
    found = sampling.calls(config, speed.OBSERVATION, speed.ACTION)
    mesh = seed_axis.seed_mesh(jax.devices()[: min(seeds, jax.device_count())])
    keys = seed_axis.pad(jax.random.split(jax.random.key(0), seeds), mesh)
    with jax.default_matmul_precision(PRECISIONS[precision]):
        state = seed_axis.over_seeds(found.init, mesh, (0,))(keys)
        flops = matmul_flops(found.samples, seed_axis.one(state, 0), jax.random.key(0))
        start = time.perf_counter()
        call = seed_axis.over_seeds(found.samples, mesh, (0, 0)).lower(state, keys).compile()
        seconds = time.perf_counter() - start
    jax.block_until_ready(call(state, keys))
    rates = np.zeros(ROUNDS)
    for turn in range(ROUNDS):
        start = speed.clock()
        jax.block_until_ready(call(state, keys))
        rates[turn] = seeds * found.total / (speed.clock() - start)
    memory = call.memory_analysis()
    return {
        **_rate(bench, rates, "samples", flops / found.total, precision),
        "sampler": f"{config.sampler}, {config.sampler_steps} steps",
        "compile_seconds": seconds,
        "program_bytes": speed.program_bytes(memory),
        "temporary_bytes": memory.temp_size_in_bytes,
    }


def profile(target: str, seeds: int, precision: str, bench: Bench) -> dict[str, Any]:
    """Kernels, copies and waits of each update, by the profiler."""
    case, path = bench.compiled(target, seeds, precision), bench.profile(target)
    cycles = max(1, bench.size.profiled // case.period)
    found = traces.recorded(lambda: case.run(cycles * case.period), path)
    return {"file": path.name, **traces.summary(found.planes, cycles * case.period)}


def evaluation(backend: str, bench: Bench) -> dict[str, Any]:
    """Environment steps per second of a fixed policy's episodes, compilation apart."""
    missing = [name for name in NEEDS[backend] if not _installed(name)]
    if missing:
        raise Skipped(f"not installed: {', '.join(missing)}")
    bench.forget()
    played = simulators.play_by(backend, *bench.size.played)
    rate = float(played.lengths.sum() / played.seconds)
    return {
        "rate": rate,
        "unit": "steps",
        "seconds": played.seconds,
        "compile_seconds": played.compile_seconds,
        "episodes": len(played.lengths),
        "mean_return": float(np.mean(played.returns)),
    }


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # of the package around it
        return False


# --- A resumed run --------------------------------------------------------------------------------


def resume(bench: Bench) -> dict[str, Any]:
    """Whether TD3+BC, stopped, saved as arrays and continued, ends with the same bits.

    The continued run compiles its programs anew. Both are in one process, which may remember how
    fast its kernels were.
    """
    bench.forget()
    seeds, count = bench.size.resumed
    method = bench.method("td3_bc")
    method = method._replace(phases=(method.phases[0]._replace(steps=2 * count),))
    mesh = seed_axis.seed_mesh(jax.devices()[: min(seeds, jax.device_count())])
    run = functools.partial(loop.run, method, bench.data, range(seeds), mesh, every=count)
    straight = run()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "state.npz"
        _save(file, seed_axis.trim(next(straight).state, seeds))
        whole = next(straight)
        whole_state = seed_axis.trim(whole.state, seeds)
        state = _loaded(file, whole_state)
    rest = next(run(state=state, start=count))
    found = different(
        {"state": whole_state, "metrics": whole.metrics},
        {"state": seed_axis.trim(rest.state, seeds), "metrics": rest.metrics},
    )
    return {"updates": [count, count], "equal": not found, "different": found}


def _save(file: Path, tree: Any) -> None:
    np.savez(file, *jax.tree.leaves(tree))


def _loaded(file: Path, like: Any) -> Any:
    with np.load(file) as arrays:
        leaves = [arrays[f"arr_{place}"] for place in range(len(arrays.files))]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def different(one: Any, other: Any) -> dict[str, float]:
    """The leaves in which any bit differs, with the largest difference of a number."""
    pairs = zip(jax.tree.leaves_with_path(one), jax.tree.leaves(other), strict=True)
    return {
        jax.tree_util.keystr(path): float(np.max(np.abs(np.float64(x) - np.float64(y))))
        for (path, x), y in pairs
        if np.asarray(x).tobytes() != np.asarray(y).tobytes()
    }


# --- flow-rl --------------------------------------------------------------------------------------


def peer_rate(bench: Bench) -> dict[str, Any]:
    """Updates per second of flow-rl's BDPO after its warm-up, one seed, always the same batch.

    Drawing batches, which it does on the host, is left out.
    """
    bench.forget()
    try:
        agent = flow_rl.agent(bench.peer, bench.config("bdpo"), speed.OBSERVATION, speed.ACTION)
    except ImportError as error:
        raise Skipped(f"flow-rl does not import: {error}") from error
    agent.prepare_training()
    rows = jax.tree.map(lambda x: x[: bench.config("bdpo").batch_size], bench.data)
    batch = flow_rl.batch(rows)
    steps: Iterator[int] = itertools.count()

    def run(count: int) -> None:
        for _ in range(count):
            agent.train_step(batch, next(steps))
        jax.block_until_ready((agent.vt.params, agent.actor.params))

    start = time.perf_counter()
    run(2)
    seconds, interval = time.perf_counter() - start, agent.cfg.critic.update_ratio
    count = interval * max(1, bench.size.profiled // interval)
    rates = np.zeros(ROUNDS)
    for turn in range(ROUNDS):
        start = speed.clock()
        run(count)
        rates[turn] = count / (speed.clock() - start)
    return {**_rate(bench, rates, "updates", 0.0, ""), "compile_seconds": seconds}
