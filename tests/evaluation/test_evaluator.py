from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import psutil
import pytest

from jaxrl_prefs import data
from jaxrl_prefs.data import Dataset, PreparedDataset, Processing
from jaxrl_prefs.environments import task as tasks
from jaxrl_prefs.errors import DataError, EvaluationError
from jaxrl_prefs.evaluation import copies, rollout
from jaxrl_prefs.evaluation.copies import OneEpisode
from jaxrl_prefs.evaluation.evaluator import Diagnosis, Evaluator, Score
from jaxrl_prefs.method import Method, Policy
from jaxrl_prefs.parallel import seed_axis
from jaxrl_prefs.types import Array, Key, Metrics, Transition
from tests import playground
from tests.playground import REACHING_ID

EVAL_SEED = 8  # a multiple of 4: episodes take 3, 4, 5, 5 steps
EPISODES = 4
LENGTHS = [3, 4, 5, 5]


@pytest.fixture(autouse=True)
def corridor() -> None:
    playground.register()


def recording(env_id: str = playground.ENV_ID, **changes: object) -> Dataset:
    """Made-up data for an environment; observations have mean (3, -2) and deviation (2, .5)."""
    task = tasks.named(env_id)
    env = task.make()
    size, width = env.observation_space.shape[0], env.action_space.shape[0]
    low, high = env.action_space.low, env.action_space.high
    env.close()
    signs = np.tile(np.float32([[1], [-1]]), (32, size))
    mean, std = np.resize(np.float32([3, -2]), size), np.resize(np.float32([2, 0.5]), size)
    rows = mean + std * signs
    full = Dataset(
        name="made-up",
        family="other",
        observation=rows,
        action=np.full((64, width), (low + high) / 2, np.float32),
        reward=np.zeros(64, np.float32),
        terminal=np.zeros(64, bool),
        next_observation=rows,
        continues=np.zeros(64, bool),
        action_low=low,
        action_high=high,
        task=task,
        references=(10.0, 60.0),
        reference_source="a test",
        returns=np.zeros(1),
        lengths=np.asarray([64]),
    )
    return full._replace(**changes)


def dataset(normalize: bool = False, **changes: object) -> PreparedDataset:
    return data.prepare(recording(**changes), Processing(normalize_observations=normalize))


def constant(state: dict[str, Array], observation: Array, key: Key) -> Array:
    del key
    return jnp.broadcast_to(state["action"], (observation.shape[0], 1))


def noisy(state: dict[str, Array], observation: Array, key: Key) -> Array:
    del state
    return jax.random.uniform(key, (observation.shape[0], 1), minval=-1)


def mirror(state: dict[str, Array], observation: Array, key: Key) -> Array:
    """Acts by what it sees: the seed of the environment over 100, and the step over 10."""
    del state, key
    return observation[:, :1] / 100 + observation[:, 1:] / 10


def diagnose(state: dict[str, Array], batch: Transition, key: Key) -> Metrics:
    count = jnp.float32(batch.reward.size)
    first = batch.observation[:, 0]
    return {
        "first": (first.sum(), count),
        "action": (state["action"].sum() * count, count),
        "noise": (jax.random.normal(key), jnp.ones(())),
        "never": (jnp.zeros(()), jnp.zeros(())),
    }


POLICIES = {
    "constant": Policy(constant, 1, "the one there is"),
    "noisy": Policy(noisy, 7, "the first"),
    "mirror": Policy(mirror, 1, "a mirror"),
}
METHOD = Method(init=lambda key, batch: {}, phases=(), policies=POLICIES, diagnose=diagnose)
ACTIONS = np.float32([[-1.0], [0.0], [0.5]])


def play(
    seeds: tuple[int, ...] = (0, 1, 2),
    *,
    over: PreparedDataset | None = None,
    mapping: str = "auto",
) -> tuple[Evaluator, dict[str, Array]]:
    mesh = seed_axis.seed_mesh()
    evaluator = Evaluator(
        METHOD,
        over or dataset(),
        seeds,
        mesh,
        episodes=EPISODES,
        eval_seed=EVAL_SEED,
        mapping=mapping,
    )
    return evaluator, seed_axis.pad({"action": np.resize(ACTIONS, (len(seeds), 1))}, mesh)


@pytest.mark.parametrize("mapping", ["loop", "vmap"])
def test_returns_lengths_and_scores_are_those_worked_out_by_hand(mapping: str) -> None:
    evaluator, state = play(mapping=mapping)
    score = evaluator(state, 0)["constant"]
    # Actions -1, 0 and .5 are 0, 5 and 7.5 in the box [0, 10].
    expected = np.outer([0.0, 5.0, 7.5], LENGTHS)
    np.testing.assert_array_equal(score.lengths, [LENGTHS] * 3)
    np.testing.assert_allclose(score.returns, expected, rtol=1e-6)
    np.testing.assert_allclose(score.scores, (expected - 10) / 50 * 100, rtol=1e-6)
    assert (score.policy, score.candidates, score.rule) == ("constant", 1, "the one there is")


def test_every_policy_is_played_in_order() -> None:
    evaluator, state = play()
    scores = evaluator(state, 0)
    assert list(scores) == ["constant", "noisy", "mirror"]
    assert (scores["noisy"].candidates, scores["noisy"].rule) == (7, "the first")


@pytest.mark.parametrize("normalize", [False, True])
def test_policies_see_what_training_sees(normalize: bool) -> None:
    evaluator, state = play((5,), over=dataset(normalize))
    mean, std = (np.float32([3, -2]), np.float32([2, 0.5]) + 1e-3) if normalize else (0, 1)
    expected = []
    for episode, steps in enumerate(LENGTHS):
        raw = np.float32([[EVAL_SEED + episode, now] for now in range(steps)])
        seen = (raw - mean) / std
        expected.append((5 + 5 * (seen[:, 0] / 100 + seen[:, 1] / 10)).sum())
    np.testing.assert_allclose(evaluator(state, 0)["mirror"].returns, [expected], rtol=1e-5)


def test_every_training_seed_starts_from_the_same_environment_seeds() -> None:
    evaluator, state = play()
    returns = evaluator(state, 0)["mirror"].returns
    np.testing.assert_array_equal(returns, returns[:1].repeat(3, 0))


def test_a_copy_rests_after_its_first_episode_and_play_ends_with_the_longest() -> None:
    evaluator, state = play()
    evaluator(state, 0)
    playground.Corridor.steps_taken = 0
    evaluator(state, 0)
    assert playground.Corridor.steps_taken == 3 * len(POLICIES) * sum(LENGTHS)


def test_an_evaluation_depends_on_state_and_step_alone() -> None:
    evaluator, state = play()
    first = evaluator(state, 3)["noisy"].returns
    other = evaluator(state, 4)["noisy"].returns
    again = evaluator(state, 3)["noisy"].returns
    np.testing.assert_array_equal(first, again)
    assert not np.isclose(first, other).any()
    fresh, state = play()
    np.testing.assert_array_equal(fresh(state, 3)["noisy"].returns, first)


def test_noise_differs_between_seeds_episodes_and_steps_of_time() -> None:
    evaluator, state = play(tuple(range(12)))
    returns = evaluator(state, 0)["noisy"].returns
    assert len(np.unique(returns.round(4))) == returns.size
    # Episodes of 5 steps pay a mean of 5 uniform draws from [0, 10], of deviation 10 / sqrt(60) =
    # 1.29; it would be 2.89 with one draw for all time. 24 of them: an error of 14 %.
    assert 0.8 < np.std(returns[:, 2:] / 5) < 1.8


@pytest.mark.parametrize("seeds", [(1,), (2, 1), (7, 3, 1, 9, 11)])
def test_a_seed_scores_the_same_in_any_company(seeds: tuple[int, ...]) -> None:
    evaluator, state = play((0, 1, 2))
    alone, other = play(seeds)
    np.testing.assert_array_equal(
        alone(other, 3)["noisy"].returns[seeds.index(1)], evaluator(state, 3)["noisy"].returns[1]
    )


@pytest.mark.parametrize("room", [1, 3, 5])
def test_episodes_score_the_same_in_rounds_where_memory_is_short(
    monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    evaluator, state = play()
    expected = evaluator(state, 3)
    made: list[OneEpisode] = []
    free = psutil.virtual_memory().available
    # Before the first copy, after each that there is room for, and after one more.
    taken = iter([0.0] * room + [0.9 * free])
    monkeypatch.setattr(copies, "_used", lambda: next(taken))
    monkeypatch.setattr(OneEpisode, "reset", _noted(OneEpisode.reset, made))
    evaluator, state = play()
    found = evaluator(state, 3)
    assert len({id(each) for each in made}) <= room
    for name, score in expected.items():
        np.testing.assert_array_equal(found[name].returns, score.returns)
        np.testing.assert_array_equal(found[name].lengths, score.lengths)


def _noted(reset: Any, made: list[OneEpisode]) -> Any:
    def noting(self: OneEpisode, **fields: Any) -> Any:
        made.append(self)
        return reset(self, **fields)

    return noting


def test_scores_are_raw_without_references() -> None:
    evaluator, state = play(over=dataset(references=None))
    score = evaluator(state, 0)["constant"]
    np.testing.assert_array_equal(score.scores, score.returns)


def test_an_estimate_is_made_without_a_trace() -> None:
    evaluator, state = play()
    before = evaluator(state, 3)["noisy"].returns
    assert 0 < evaluator.estimate(state) < 60
    np.testing.assert_array_equal(evaluator(state, 3)["noisy"].returns, before)
    evaluator.close()


def test_costly_policies_are_played_after_the_last_update_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    costly = POLICIES | {"noisy": POLICIES["noisy"]._replace(last_only=True)}
    monkeypatch.setattr(sys.modules[__name__], "METHOD", METHOD._replace(policies=costly))
    evaluator, state = play()
    assert list(evaluator(state, 0, last=False)) == ["constant", "mirror"]
    assert list(evaluator(state, 0)) == ["constant", "noisy", "mirror"]
    assert evaluator.estimate(state, last_only=True) > 0
    evaluator.close()


def test_data_without_an_environment_cannot_be_played() -> None:
    with pytest.raises(DataError, match="made-up names no environment"):
        play(over=dataset(task=None))


def test_another_environments_sizes_are_refused() -> None:
    with pytest.raises(DataError, match="has 3 observations and 1 actions"):
        play(over=dataset(task=tasks.named("Pendulum-v1")))


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "Hopper-v5", "PointMaze_UMazeDense-v3"])
def test_a_simulator_keeps_nothing_from_one_evaluation_to_the_next(env_id: str) -> None:
    made_up = data.prepare(recording(env_id), Processing())
    width = made_up.spec.action_dim

    def act(state: dict[str, Array], observation: Array, key: Key) -> Array:
        del state
        return jax.random.uniform(key, (observation.shape[0], width), minval=-1)

    method = METHOD._replace(policies={"random": Policy(act, 1, "uniform")})
    mesh = seed_axis.seed_mesh()
    evaluator = Evaluator(method, made_up, (0, 1), mesh, episodes=1, eval_seed=0)
    first, _, again = (evaluator({}, step)["random"].returns for step in (0, 1, 0))
    np.testing.assert_array_equal(first, again)
    assert first[0, 0] != first[1, 0]


def test_a_diagnosis_averages_over_the_same_rows_at_every_step() -> None:
    mesh, made_up = seed_axis.seed_mesh(), dataset()
    diagnosis = Diagnosis(METHOD, made_up.transitions, (0, 1, 2), mesh, eval_seed=EVAL_SEED)
    state = seed_axis.pad({"action": ACTIONS}, mesh)
    found, later = diagnosis(state, 1), diagnosis(state, 2)
    assert set(found) == {"first", "action", "noise"}
    np.testing.assert_allclose(found["first"], [3.0] * 3, rtol=1e-6)  # all 64 rows
    np.testing.assert_allclose(found["action"], ACTIONS[:, 0], rtol=1e-6)
    assert len(set(found["noise"])) == 3 and not set(found["noise"]) & set(later["noise"])


def test_a_diagnosis_of_large_data_takes_some_rows() -> None:
    size = 5_000
    large = jax.tree.map(lambda x: np.repeat(x, size // 64 + 1, 0)[:size], dataset().transitions)

    def count(state: dict[str, Array], batch: Transition, key: Key) -> Metrics:
        del state, key
        return {"rows": (jnp.float32(batch.reward.size), jnp.ones(()))}

    mesh = seed_axis.seed_mesh()
    diagnosis = Diagnosis(METHOD._replace(diagnose=count), large, (0,), mesh, eval_seed=0)
    assert diagnosis(seed_axis.pad({"action": ACTIONS[:1]}, mesh), 0)["rows"] == [1024]


# --- Success --------------------------------------------------------------------------------------


def reached(env_id: str = REACHING_ID, **changes: object) -> Score:
    """Starts 8 to 11 and actions 0, 5 and 7.5: the last seed succeeds at the even starts."""
    evaluator, state = play(over=data.prepare(recording(env_id, **changes), Processing()))
    return evaluator(state, 0)["constant"]


def test_success_at_any_step_is_told_beside_an_unchanged_score() -> None:
    score, plain = reached(), reached(playground.ENV_ID)
    assert score.successes is not None and plain.successes is None
    assert score.successes.tolist() == [[False] * 4, [False] * 4, [True, False, True, False]]
    for name in ("returns", "scores", "lengths"):
        np.testing.assert_array_equal(getattr(score, name), getattr(plain, name))


def test_on_ogbench_success_is_the_score() -> None:
    score = reached(family="ogbench", references=None)
    np.testing.assert_array_equal(score.scores, [[0] * 4, [0] * 4, [100, 0, 100, 0]])
    np.testing.assert_allclose(score.returns, np.outer([0.0, 5.0, 7.5], LENGTHS), rtol=1e-6)
    made_up = recording(REACHING_ID, family="ogbench", references=None)
    assert (made_up.score_kind, made_up.own_score) == ("success rate", None)


@pytest.mark.parametrize("backend", ["gymnasium", "mjx"])
def test_an_environment_that_tells_no_success_does_not_score_ogbench(backend: str) -> None:
    env_id = {"gymnasium": playground.ENV_ID, "mjx": "Pendulum-v1"}[backend]
    made_up = data.prepare(recording(env_id, family="ogbench"), Processing())
    given = {"episodes": 1, "eval_seed": 0, "backend": backend}
    with pytest.raises(DataError, match=rf"{env_id} does not report info\['success'\].* --env=ID"):
        Evaluator(METHOD, made_up, (0,), seed_axis.seed_mesh(), **given)


# --- On the device --------------------------------------------------------------------------------


def swing(state: dict[str, Array], observation: Array, key: Key) -> Array:
    """A torque against the speed, with the seed's own gain and a little noise."""
    noise = 0.1 * jax.random.normal(key, (observation.shape[0], 1))
    return jnp.clip(-state["action"][None] * observation[:, 2:] + noise, -1, 1)


def swung(
    backend: str, seeds: tuple[int, ...] = (0, 1, 2), *, episodes: int = 40, mapping: str = "auto"
) -> Score:
    mesh = seed_axis.seed_mesh()
    made_up = data.prepare(recording("Pendulum-v1"), Processing(normalize_observations=True))
    method = METHOD._replace(policies={"swing": Policy(swing, 1, "the one there is")})
    evaluator = Evaluator(
        *(method, made_up, seeds, mesh),
        episodes=episodes,
        eval_seed=EVAL_SEED,
        mapping=mapping,
        backend=backend,
    )
    assert evaluator.backend == backend
    state = seed_axis.pad({"action": ACTIONS[list(seeds)]}, mesh)
    score = evaluator(state, 3)["swing"]
    evaluator.close()
    return score


def test_the_device_scores_as_gymnasium_does() -> None:
    host, device = swung("gymnasium"), swung("mjx")
    assert device.returns.shape == device.lengths.shape == (3, 40)
    np.testing.assert_array_equal(device.lengths, host.lengths)
    error = np.sqrt((host.returns.var(1) + device.returns.var(1)) / 40)
    assert (np.abs(host.returns.mean(1) - device.returns.mean(1)) < 4 * error).all()
    assert np.ptp(host.returns.mean(1)) > 4 * error.max()  # the seeds themselves do differ


@pytest.mark.parametrize("mapping", ["loop", "vmap"])
def test_on_the_device_a_seed_scores_the_same_in_any_company(mapping: str) -> None:
    whole = swung("mjx", episodes=3, mapping=mapping)
    alone = swung("mjx", (1,), episodes=3)
    np.testing.assert_allclose(alone.returns[0], whole.returns[1], rtol=1e-4)


def test_auto_takes_gymnasium_on_a_cpu() -> None:
    evaluator, _ = play()
    assert evaluator.backend == "gymnasium"
    evaluator.close()


def test_auto_takes_the_device_where_it_is_an_accelerator_and_there_is_a_simulator() -> None:
    class Device:
        platform = "gpu"

    mesh = SimpleNamespace(devices=np.array([Device()]))
    hopper = data.prepare(recording("Hopper-v5"), Processing())
    assert rollout.chosen_backend("auto", hopper, mesh) == "mjx"
    assert rollout.chosen_backend("gymnasium", hopper, mesh) == "gymnasium"
    assert rollout.chosen_backend("auto", dataset(), mesh) == "gymnasium"  # no simulator
    assert rollout.chosen_backend("auto", dataset(task=None), mesh) == "gymnasium"
    with pytest.raises(ValueError, match="eval_backend must be one of auto, gymnasium, mjx"):
        rollout.chosen_backend("brax", hopper, mesh)


def test_a_simulator_of_other_sizes_is_refused() -> None:
    made_up = dataset(task=tasks.named("Pendulum-v1"))
    with pytest.raises(DataError, match="has 3 observations and 1 actions"):
        Evaluator(
            *(METHOD, made_up, (0,), seed_axis.seed_mesh()), episodes=1, eval_seed=0, backend="mjx"
        )


def faulty(fault: str) -> Dataset:
    return data.prepare(recording(playground.faulty(fault)), Processing())


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raises", "tests/FaultyRaises-v0 raised RuntimeError: unstable simulation"),
        ("nan", "tests/FaultyNan-v0 showed a NaN or an infinity"),
        ("nan reward", "tests/FaultyNanReward-v0 showed a NaN or an infinity"),
    ],
)
def test_an_environment_that_fails_is_named_and_not_scored(fault: str, message: str) -> None:
    """Starts 8 to 11: the second episode of the first seed is the first odd one."""
    evaluator, state = play((5, 7), over=faulty(fault))
    place = r"\(seed 5, episode 1, step 2\)"
    for _ in range(2):  # the environments can be reset after it
        with pytest.raises(
            EvaluationError, match=f"policy 'constant' could not.*{message}.*{place}"
        ):
            evaluator(state, 0)
    evaluator.close()


def test_a_fault_after_an_episodes_end_is_none() -> None:
    """Of the copies at rest, nothing is asked."""
    evaluator, state = play((0,), over=faulty("nan"))
    evaluator._arena._starts = [8, 8, 10, 10]
    assert np.isfinite(evaluator(state, 0)["constant"].returns).all()
    evaluator.close()


def test_rewards_may_be_arrays_of_one_number() -> None:
    evaluator, state = play(over=faulty("array"))
    expected = np.outer([0.0, 5.0, 7.5], LENGTHS)
    np.testing.assert_allclose(evaluator(state, 0)["constant"].returns, expected, rtol=1e-6)
    evaluator.close()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("OldStep", r"step\(\) returns 4 value"),
        ("OldReset", r"reset\(seed=0\) fails: .*unexpected keyword argument"),
        ("BareReset", r"reset\(\) returns no \(observation, info\)"),
    ],
)
def test_old_interfaces_are_named_before_the_training(name: str, message: str) -> None:
    with pytest.raises(
        DataError, match=f"tests/{name}-v0 has not Gymnasium.*{message}.*--env=none"
    ):
        play(over=dataset(task=tasks.named(f"tests/{name}-v0")))


def test_a_nan_on_the_device_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pendulums that start on the left break down in their third step."""
    build = rollout.mjx.build

    def broken(task: tasks.Task) -> object:
        simulator = build(task)

        def step(world: object, action: Array) -> tuple:
            after, reward, over = simulator.step(world, action)
            lost = simulator.observe(world)[1] < 0
            return jax.tree.map(lambda x: jnp.where(lost, jnp.nan, x), after), reward, over

        return simulator._replace(step=step)

    monkeypatch.setattr(rollout.mjx, "build", broken)
    with pytest.raises(EvaluationError, match=r"Pendulum-v1 showed a NaN .*\(seed 0, episode \d+"):
        swung("mjx", episodes=6)
