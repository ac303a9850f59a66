"""The runner, on the probe method: log points, keys, columns, resuming, breaking."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs.errors import NonFiniteError
from jaxrl_prefs.keys import phase_keys, seed_keys, shared_key
from jaxrl_prefs.method import Method, Phase, identity
from jaxrl_prefs.parallel import seed_axis
from jaxrl_prefs.training import chunk, loop, program
from jaxrl_prefs.types import Array, Key, Spec, Transition
from tests import probes

SEEDS = (3, 4, 5, 6, 7)


class Record(NamedTuple):
    """A log point, copied: the runner goes on using the original's memory."""

    phase: str
    phase_step: int
    step: int
    state: Any  # [S, ...]
    columns: dict[str, np.ndarray]
    filled: tuple[int, int]
    metrics: dict[str, np.ndarray]
    totals: dict[str, np.ndarray]
    complete: bool


def record(
    method: Method,
    data: Transition,
    seeds: Sequence[int] = SEEDS,
    *,
    devices: int = 2,
    every: int = 5,
    **more: Any,
) -> list[Record]:
    mesh = seed_axis.seed_mesh(jax.devices()[:devices])
    return [
        Record(*log_point)._replace(
            state=seed_axis.trim(log_point.state, len(seeds)),
            columns={name: column.copy() for name, column in log_point.columns.items()},
        )
        for log_point in loop.run(method, data, seeds, mesh, every=every, **more)
    ]


def probe(data: Transition, **fields: Any) -> Method:
    return probes.make(probes.Config(**fields), Spec.of(data))


@pytest.fixture(scope="module")
def data() -> Transition:
    return probes.episodes(size=90, length=12, observation_dim=3, action_dim=2)


@pytest.fixture(scope="module", params=[False, True], ids=["own", "shared"])
def shared(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module")
def whole(data: Transition, shared: bool) -> list[Record]:
    """An uninterrupted run: 5 seeds on 2 devices, so that one place is padding."""
    return record(probe(data, shared=shared), data)


# --- Ticks ----------------------------------------------------------------------------------------


def test_ticks_fall_on_multiples_and_phase_ends(whole: list[Record]) -> None:
    """Phases of 12, 6 (90 rows by 16) and 20 steps."""
    assert [(log_point.phase, log_point.phase_step, log_point.step) for log_point in whole] == [
        ("model", 5, 5), ("model", 10, 10), ("model", 12, 12),
        ("guess", 3, 15), ("guess", 6, 18),
        ("train", 2, 20), ("train", 7, 25), ("train", 12, 30), ("train", 17, 35), ("train", 20, 38),
    ]  # fmt: skip


def test_metrics_are_means_per_seed_and_absent_where_nothing_was_counted(
    whole: list[Record], data: Transition
) -> None:
    for log_point in whole:
        for name, values in log_point.metrics.items():
            assert values.shape == (5,), name
            assert np.isfinite(values).all(), name
    by_phase = {log_point.phase: set(log_point.metrics) for log_point in whole}
    assert by_phase["model"] == {"model_loss"}
    # Of steps 15 and 16 of the phase neither is a third one: no actor update, no actor metric.
    method = probe(data, model_steps=0)
    short = record(method, data, every=1)
    keys = [set(log_point.metrics) for log_point in short if log_point.phase == "train"]
    assert keys[0] == keys[3] == {"critic_loss", "actor_loss"}
    assert keys[1] == keys[2] == {"critic_loss"}


def test_chunk_length_changes_nothing(whole: list[Record], data: Transition, shared: bool) -> None:
    """One chunk per phase against chunks of 5, and of 1: equal bit for bit."""
    method = probe(data, shared=shared)
    for every in (100, 1):
        log_points = record(method, data, every=every)
        for one, other in zip(_ends(log_points), _ends(whole), strict=True):
            chex.assert_trees_all_equal(one.state, other.state)
            chex.assert_trees_all_equal(one.columns, other.columns)


def _ends(log_points: list[Record]) -> list[Record]:
    return [
        a
        for a, b in zip(log_points, [*log_points[1:], None], strict=True)
        if not b or a.phase != b.phase
    ]


def test_resumes_from_every_tick_bit_for_bit(
    whole: list[Record], data: Transition, shared: bool
) -> None:
    method = probe(data, shared=shared)
    for place in (1, 2, 3, 4, 7):  # inside and at the end of each phase
        log_point = whole[place]
        rest = record(
            method, data, state=log_point.state, columns=log_point.columns, start=log_point.step
        )
        assert len(rest) == len(whole) - place - 1
        for resumed, uninterrupted in zip(rest, whole[place + 1 :], strict=True):
            chex.assert_trees_all_equal(resumed, uninterrupted)


@pytest.fixture
def short_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls of one step; of as many as there are devices where these take turns."""
    monkeypatch.setattr(loop, "FIRST_CALL_STEPS", 1)
    monkeypatch.setattr(loop, "CALL_SECONDS", 0.0)


@pytest.mark.usefixtures("short_calls")
def test_no_bit_depends_on_how_long_a_call_is(
    whole: list[Record], data: Transition, shared: bool
) -> None:
    asked: list[int] = []

    def stopped(step: int) -> bool:
        asked.append(step)
        return False

    cut = record(probe(data, shared=shared), data, should_stop=stopped)
    fills = [13, 14, 15, 16, 17, 18] if not shared else [14, 15, 17, 18]
    assert asked == [*range(1, 13), *fills, *range(19, 39)]
    for one, other in zip(cut, whole, strict=True):
        chex.assert_trees_all_equal(one, other)


@pytest.mark.usefixtures("short_calls")
def test_a_run_that_is_stopped_anywhere_goes_on_bit_for_bit(
    whole: list[Record], data: Transition, shared: bool
) -> None:
    """Also between two log points: the sums of the metrics go on, through JSON as in a file."""
    method = probe(data, shared=shared)
    for stop in (1, 7, 14, 15, 18, 21, 33):
        first = record(method, data, should_stop=lambda step, stop=stop: step >= stop)
        last = first[-1]
        assert last.step >= stop and last.complete == (last.step in {x.step for x in whole})
        assert last.complete or not last.metrics
        rest = record(
            method,
            data,
            state=last.state,
            columns=last.columns,
            start=last.step,
            totals=None if last.complete else _through_json(last.totals),
        )
        before = first if last.complete else first[:-1]
        for one, other in zip([*before, *rest], whole, strict=True):
            chex.assert_trees_all_equal(
                one._replace(filled=other.filled, columns={}), other._replace(columns={})
            )
        chex.assert_trees_all_equal(rest[-1].columns, whole[-1].columns)


def _through_json(totals: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    text = json.dumps({name: x.tolist() for name, x in totals.items()})
    return {name: np.array(x, np.float32) for name, x in json.loads(text).items()}


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.001, [16, 128, 1000]), (0.01, [16, 128, 200]), (9.0, [16, 1, 1])]
)
def test_calls_take_a_few_seconds(seconds: float, expected: list[int]) -> None:
    """By the seconds of a step: the calls grow, and shrink at once."""
    phase = Phase("any", 1000, _nothing, 4)
    length, found = (
        loop.CallLength(SimpleNamespace(longest=1000, stride=1, round_length=1, phase=phase)),
        [],
    )
    for _ in expected:
        found.append(length.steps())
        length.record(found[-1], found[-1] * seconds)
    assert found == expected


def test_the_steps_before_a_log_point_do_not_shorten_later_calls() -> None:
    phase = Phase("any", 1000, _nothing, 4)
    length = loop.CallLength(SimpleNamespace(longest=1000, stride=1, round_length=1, phase=phase))
    for _ in range(3):
        length.record(3, 3e-6)
    assert length.steps() == loop.FIRST_CALL_STEPS


def test_resuming_leaves_the_callers_arrays_alone(
    whole: list[Record], data: Transition, shared: bool
) -> None:
    log_point = whole[3]
    state = jax.tree.map(jnp.asarray, log_point.state)
    before = jax.tree.map(np.copy, (log_point.state, log_point.columns))
    method = probe(data, shared=shared)
    record(method, data, state=state, columns=log_point.columns, start=log_point.step)
    chex.assert_trees_all_equal((seed_axis.trim(state, 5), log_point.columns), before)


def test_a_tick_stays_valid_until_the_next_is_asked_for(data: Transition) -> None:
    two = seed_axis.seed_mesh(jax.devices()[:2])
    log_points = loop.run(probe(data), data, SEEDS, two, every=6)
    first = next(log_points)
    copy = seed_axis.trim(first.state, 5)
    chex.assert_trees_all_equal(seed_axis.trim(first.state, 5), copy)
    next(log_points)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(first.state))


# --- Seeds and devices ----------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"], indirect=True)
@pytest.mark.parametrize(("seeds", "devices"), [((5,), 1), ((7, 5), 4)])
def test_a_seed_is_the_same_in_every_company(
    whole: list[Record], data: Transition, shared: bool, seeds: tuple[int, ...], devices: int
) -> None:
    last = record(probe(data, shared=shared), data, seeds, devices=devices)[-1]
    _same(last, seeds, whole[-1])


@pytest.mark.parametrize("shared", [False], ids=["own"], indirect=True)
def test_side_by_side_is_the_same_as_one_after_the_other(
    whole: list[Record], data: Transition
) -> None:
    last = record(probe(data), data, (5, 4, 3), devices=1, mapping="vmap")[-1]
    _same(last, (5, 4, 3), whole[-1])


def _same(mine: Record, seeds: tuple[int, ...], theirs: Record) -> None:
    chex.assert_trees_all_close(
        seed_axis.one(mine.state, seeds.index(5)),
        seed_axis.one(theirs.state, SEEDS.index(5)),
        rtol=1e-5,
        atol=1e-6,
    )


def test_seeds_differ(whole: list[Record], shared: bool) -> None:
    """And what they share they share exactly."""
    state = whole[-1].state
    fields = {field.name for field in dataclasses.fields(state)}
    for name in fields - ({"model"} if shared else set()):
        weights = getattr(state, name).params["w"].reshape(5, -1)
        assert len(np.unique(weights, axis=0)) == 5, name
    if shared:
        for leaf in jax.tree.leaves(state.model):
            np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[0], leaf.shape))


def test_the_shared_key_is_no_seeds_key() -> None:
    high, low = jax.random.key_data(shared_key())
    assert high != 0  # every seed below 2**32 has 0 there
    assert low != 0


# --- Columns --------------------------------------------------------------------------------------


def test_columns_are_filled_in_order_and_by_row(
    whole: list[Record], data: Transition, shared: bool
) -> None:
    """Row i holds what the update draws with fold_in(key, i), whoever drew it."""
    filling = [log_point for log_point in whole if log_point.phase == "guess"]
    assert [log_point.filled for log_point in filling] == [(0, 48), (48, 90)]
    assert all(log_point.filled == (0, 0) for log_point in whole if log_point.phase != "guess")
    assert not filling[0].columns["guess"][..., 48:, :].any()
    keys = shared_key()[None] if shared else seed_keys(SEEDS)
    update_keys = phase_keys(keys, 1)[2]
    final = filling[-1].columns["guess"]
    assert final.shape == ((90, 2) if shared else (5, 90, 2))
    for member, key in enumerate(update_keys):
        noise = [jax.random.uniform(jax.random.fold_in(key, row)) for row in (0, 47, 89)]
        found = (final if shared else final[member])[[0, 47, 89], 1]
        np.testing.assert_allclose(found, np.asarray(noise), rtol=1e-6)


def test_a_column_too_long_for_one_call_is_filled_in_several(
    whole: list[Record], data: Transition, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room for one batch of 16 rows of 2 floats: 18 rows would not fit."""
    monkeypatch.setattr(chunk, "COLUMN_BYTES", 16 * 2 * 4)
    last = record(probe(data, shared=shared), data, every=100)[-1]
    chex.assert_trees_all_close(last.columns, whole[-1].columns, rtol=1e-5, atol=1e-6)


def test_batches_carry_the_columns_of_row_and_successor(data: Transition) -> None:
    column = np.arange(90.0)
    batch = program.take(data, jnp.array([3, 11, 89]), {"count": column})
    np.testing.assert_array_equal(batch.columns["count"], [3, 11, 89])
    np.testing.assert_array_equal(batch.columns["next_count"], [4, 11, 89])  # 11 ends an episode
    np.testing.assert_array_equal(batch.index, [3, 11, 89])
    np.testing.assert_array_equal(batch.reward, data.reward[[3, 11, 89]])


def test_a_filling_phase_that_misses_rows_is_refused(data: Transition) -> None:
    method = probe(data)
    short = method.phases[1]._replace(steps=5)
    phases = (method.phases[0], short, method.phases[2])
    with pytest.raises(ValueError, match="must reach the last of 90 rows"):
        record(method._replace(phases=phases), data)


def test_a_filling_phase_that_changes_the_state_is_refused(data: Transition) -> None:
    method = probe(data)
    fill = method.phases[1]

    def changing(state: Any, *rest: Any) -> tuple:
        state, *results = fill.update(state, *rest)
        return jax.tree.map(lambda x: x * 1, state), *results

    phases = (method.phases[0], fill._replace(update=changing), method.phases[2])
    with pytest.raises(ValueError, match="its state must stay as it is"):
        record(method._replace(phases=phases), data)


def test_a_missing_column_is_told(whole: list[Record], data: Transition) -> None:
    with pytest.raises(ValueError, match="'guess', filled by phase 'guess', is missing"):
        record(probe(data), data, state=whole[-2].state, start=whole[-2].step)


# --- Phases of no step, and bad arguments ---------------------------------------------------------


def counting(*steps: int, enters: bool = True) -> Method:
    """State: a list of the phases entered, as digits of one number, and the updates done."""

    def phase(number: int, steps: int) -> Phase:
        def enter(state: Any, key: Key) -> Any:
            del key
            return {**state, "entered": state["entered"] * 10 + number}

        return Phase(f"phase {number}", steps, update, 4, enter=enter if enters else identity)

    def init(key: Key, batch: Transition) -> Any:
        del key, batch
        return {"entered": jnp.zeros(()), "updates": jnp.zeros(())}

    def update(state: Any, batch: Transition, key: Key, step: Array) -> tuple:
        del batch, key, step
        return {**state, "updates": state["updates"] + 1}, {}

    return Method(init, tuple(phase(i + 1, n) for i, n in enumerate(steps)), {})


def test_phases_of_no_step_are_entered_once(data: Transition) -> None:
    """... with the phase before them, or at the start; also when the run is resumed."""
    method = counting(0, 2, 0, 0, 2, 0)
    log_points = record(method, data, (1,), every=10)
    assert [(log_point.phase, log_point.step) for log_point in log_points] == [
        ("phase 2", 2),
        ("phase 5", 4),
    ]
    assert [float(log_point.state["entered"][0]) for log_point in log_points] == [1234, 123456]
    assert [float(log_point.state["updates"][0]) for log_point in log_points] == [2, 4]
    (resumed,) = record(method, data, (1,), every=10, state=log_points[0].state, start=2)
    chex.assert_trees_all_equal(resumed.state, log_points[1].state)
    assert record(method, data, (1,), every=10, state=log_points[1].state, start=4) == []


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"every": 0}, "nothing to train"),
        ({"start": 3}, "0 without a state"),
        ({"start": 5, "state": {"entered": np.zeros(1), "updates": np.zeros(1)}}, "in 0 ... 4"),
        ({"mapping": "pmap"}, "mapping must be one of"),
    ],
)
def test_bad_arguments_are_refused(data: Transition, more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        record(counting(4), data, (1,), **more)


def test_a_method_without_steps_is_refused(data: Transition) -> None:
    with pytest.raises(ValueError, match="nothing to train"):
        record(counting(0, 0), data, (1,))


# --- Breaking -------------------------------------------------------------------------------------


SOUND = 99  # a step that is never reached


def breaking(*, quietly: bool = False) -> Method:
    """Each seed has a step at which its metric `loss`, or else only its state, becomes NaN.

    The steps of seeds 1 to 5 are read from the data's first row, so that one program serves all
    tests.
    """

    def init(key: Key, batch: Transition) -> Any:
        keys = jax.vmap(jax.random.fold_in, (0, None))(seed_keys(range(1, 6)), 0)
        mine = (jax.random.key_data(keys) == jax.random.key_data(key)[None]).all(-1)
        return {"breaks": (batch.observation[0] * mine).sum(), "weight": jnp.zeros(())}

    def update(state: Any, batch: Transition, key: Key, step: Array) -> tuple:
        del key
        loss = jnp.where(step == state["breaks"], jnp.nan, batch.reward.mean())
        seen = jnp.zeros(()) if quietly else loss
        state = {**state, "weight": state["weight"] + loss}
        return state, {"aaa": (jnp.zeros(()), jnp.ones(())), "loss": (seen, jnp.ones(()))}

    return Method(init, (Phase("calm", 4, _nothing, 4), Phase("wild", 12, update, 4)), {})


def breaks(*steps: int) -> Transition:
    """Data for `breaking`: at which step of `wild` seeds 1 to 5 break."""
    data = probes.episodes(size=90, length=12, observation_dim=5, action_dim=2)
    data.observation[0] = steps
    return data


def _nothing(state: Any, batch: Transition, key: Key, step: Array) -> tuple:
    del batch, key, step
    return state, {}


@pytest.mark.parametrize("mapping", ["loop", "vmap"])
def test_a_broken_seed_is_named(mapping: str) -> None:
    """The earliest is named, after the log points before it; the rest of 8 places is padding."""
    data = breaks(SOUND, 10, SOUND, 7, SOUND)
    log_points = loop.run(
        breaking(), data, (1, 2, 3, 4, 5), seed_axis.seed_mesh(), every=4, mapping=mapping
    )
    steps = []
    with pytest.raises(NonFiniteError, match="seed 4, phase 'wild', step 7") as caught:
        steps.extend(log_point.step for log_point in log_points)
    assert steps == [4, 8]
    error = caught.value
    assert (error.seed, error.phase, error.step, error.metric) == (4, "wild", 7, "loss")


def test_padding_neither_breaks_nor_hides() -> None:
    """Seed 5 is the one that padding repeats. Where it breaks with seed 1, that is named."""
    five = (1, 2, 3, 4, 5)
    with pytest.raises(NonFiniteError, match="seed 5, phase 'wild', step 5"):
        record(breaking(), breaks(SOUND, 7, SOUND, SOUND, 5), five, devices=4)
    with pytest.raises(NonFiniteError, match="seed 1, phase 'wild', step 5"):
        record(breaking(), breaks(5, SOUND, SOUND, SOUND, 5), five, devices=4)
    sound = record(breaking(), breaks(*[SOUND] * 5), five, devices=4)
    assert sound[-1].step == 16


def test_a_broken_state_is_named_though_its_losses_look_well() -> None:
    data = breaks(SOUND, 5, SOUND, SOUND, SOUND)
    with pytest.raises(NonFiniteError) as caught:
        record(breaking(quietly=True), data, (1, 2, 3, 4, 5), devices=4, every=100)
    assert caught.value.seed == 2
    assert caught.value.metric == "state.weight"
    assert caught.value.step == 11  # the chunk's last


def test_a_broken_shared_phase_names_no_seed(data: Transition) -> None:
    method = probe(data, shared=True)
    bad = data._replace(reward=np.full_like(data.reward, np.inf))
    with pytest.raises(NonFiniteError, match="model_loss is NaN or infinite: all seeds") as caught:
        record(method, bad)
    assert caught.value.seed is None
    assert caught.value.step == 0
