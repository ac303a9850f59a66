from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jaxrl_prefs.data.families import family_of
from jaxrl_prefs.environments import ogbench_names
from jaxrl_prefs.errors import ConfigError
from jaxrl_prefs.methods import METHODS
from jaxrl_prefs.runs import config, cpu_presets, presets, published, published_ogbench, suites
from jaxrl_prefs.runs.config import Choice
from jaxrl_prefs.types import Spec

ROWS = [
    (name, algo, kind)
    for kind, table in (("default", presets.PRESETS), ("cpu", presets.CPU))
    for name, row in table.items()
    for algo in row
    if algo != "*"
]
# BDPO's table 4: rho, eta, max-Q backup
TABLE_4 = {
    **{f"halfcheetah-{q}-v2": (0.5, 0.05, False) for q in ("medium", "medium-replay")},
    "halfcheetah-medium-expert-v2": (0.5, 0.05, False),
    **{f"hopper-{q}-v2": (2.0, 0.2, False) for q in ("medium", "medium-replay", "medium-expert")},
    **{f"walker2d-{q}-v2": (1.0, 0.15, False) for q in ("medium", "medium-replay")},
    "walker2d-medium-expert-v2": (1.0, 0.15, False),
    "antmaze-umaze-v0": (0.8, 0.5, True),
    "antmaze-umaze-diverse-v0": (0.8, 0.5, True),
    "antmaze-medium-play-v0": (0.8, 0.2, True),
    "antmaze-medium-diverse-v0": (0.8, 0.2, True),
    "antmaze-large-play-v0": (0.8, 1.0, True),
    "antmaze-large-diverse-v0": (0.8, 1.0, True),
}


def choice(dataset: str, algo: str, kind: str = "default", words: tuple[str, ...] = ()) -> Choice:
    assignments = (f"preset={kind}", *words)
    return Choice(algo=algo, dataset=dataset, env="", seeds=(0,), assignments=assignments)


@pytest.mark.parametrize(("dataset", "algo", "kind"), ROWS)
def test_every_row_builds(dataset: str, algo: str, kind: str) -> None:
    family = family_of(dataset)
    _, method_config = config.resolve(choice(dataset, algo, kind), dataset, family)
    zero, one = np.zeros(3, np.float32), np.ones(3, np.float32)
    spec = Spec(3, 3, 10_000, -one, one, zero, one, zero, one)
    method = METHODS[algo].make(method_config, spec)
    assert sum(phase.steps for phase in method.phases) > 0


def test_every_dataset_of_the_papers_has_a_row() -> None:
    # RQL's paper prints means of five tasks of OGBench, under names that are no dataset's.
    printed = {
        (column.algo, name)
        for column in published.PUBLISHED.values()
        for name in column.scores.keys() - published_ogbench.RQL.keys()
        if column.algo
    }
    assert len(printed) > 90
    for algo, name in printed:
        family = "ogbench" if ogbench_names.of_path(name) else family_of(name)
        rows = presets.PRESETS.get(name, {}), presets.FAMILIES.get(family, {})
        assert any(algo in row for row in rows), (algo, name)
    # TD3-BST's and IQL-BST's tables could not be had; they are of these families.
    for family in ("locomotion", "antmaze", "adroit", "kitchen"):
        assert {"td3_bst", "iql_bst"} <= presets.FAMILIES[family].keys()


@pytest.mark.parametrize("family", presets.FAMILIES)
def test_every_family_builds(family: str) -> None:
    for algo in METHODS:
        config.resolve(choice("unknown/set-v0", algo), "unknown/set-v0", family)


@pytest.mark.parametrize("dataset", TABLE_4)
def test_bdpo_has_the_papers_settings(dataset: str) -> None:
    run, method = config.resolve(choice(dataset, "bdpo"), dataset, family_of(dataset))
    assert (method.rho, method.eta, method.max_backup) == TABLE_4[dataset]
    maze = dataset.startswith("antmaze")
    assert method.critic_ensemble_size == (20 if dataset == "hopper-medium-v2" else 10)
    assert method.critic_layer_norm == maze
    assert method.actor_hidden == 4 * (512 if maze else 256,)
    assert method.behavior_learning_rate == (1e-4 if maze else 3e-4)
    assert method.candidates == (1 if dataset == "antmaze-umaze-diverse-v0" else 10)
    assert run.eval_episodes == (100 if maze else 10)
    assert run.gamma == (0.995 if maze else 0.99)
    assert method.pretrain_steps == method.train_steps == 2_000_000


@pytest.mark.parametrize(
    ("dataset", "env_id", "expected"),
    [
        ("mine/halfcheetah-play-v3", "", (0.5, 0.05)),
        ("halfcheetah/medium-v0", "HalfCheetah-v5", (0.5, 0.05)),
        ("data/hopper_random-v2.hdf5", "", (2.0, 0.2)),
        ("logs/run-7-v0", "Hopper-v5", (2.0, 0.2)),
        ("walker2d-random-v2", "", (1.0, 0.15)),
        ("antmaze-large-play-v2", "", (0.8, 1.0)),
        ("antmaze-medium-diverse-v2", "", (0.8, 0.2)),
        ("antmaze-umaze-diverse-v2", "", (0.8, 0.5)),
        ("ant-medium-v2", "Ant-v5", (1.0, 0.15)),  # no robot of the paper: the family's
    ],
)
def test_bdpo_s_strengths_go_by_the_robot(
    dataset: str, env_id: str, expected: tuple[float, float]
) -> None:
    found = presets.preset(dataset, family_of(dataset, env_id), "bdpo", env_id)
    assert (found.fields["rho"], found.fields["eta"]) == expected


def test_a_preset_says_where_it_comes_from() -> None:
    def source(dataset: str, algo: str = "bdpo") -> str:
        return presets.preset(dataset, family_of(dataset), algo).source

    assert source("hopper-medium-v2") == "the dataset's own row"
    assert source("mine/hopper-v0") == "its robot's row (hopper)"
    assert source("mine/ant-v0") == "its family's row (locomotion)"
    assert source("mine/robot-v0") == "the method's defaults"


# ARQ's tables A.1 to A.3: score model steps, members; rate, K; alpha of Q, alpha of AWR; policy
TABLES_A = {
    "walker2d-medium-v2": (1_000_000, 1, 3e-4, 9, 1, 1, "stochastic"),
    "D4RL/kitchen/mixed-v2": (300_000, 1, 1e-4, 9, 1, 1, "stochastic"),
    "D4RL/pen/human-v2": (300_000, 3, 1e-4, 9, 10, 10, "stochastic"),
    "antmaze-umaze-v0": (1_000_000, 1, 3e-4, 3, 10, 10, "deterministic"),
    "robomimic/lift/mg-v0": (1_000_000, 3, 1e-4, 9, 1, 10, "residual"),
    "robomimic/can/ph-v0": (150_000, 3, 1e-4, 9, 0.1, 0.1, "residual"),
    "robomimic/square/mh-v0": (150_000, 3, 1e-4, 9, 0.1, 0.1, "residual"),
}


@pytest.mark.parametrize("dataset", TABLES_A)
def test_arq_has_the_papers_settings(dataset: str) -> None:
    run, method = config.resolve(choice(dataset, "arq"), dataset, family_of(dataset))
    names = ("pretrain_steps", "behavior_ensemble_size", "critic_learning_rate", "kth", "alpha")
    names += ("actor_alpha", "policy")
    assert tuple(getattr(method, name) for name in names) == TABLES_A[dataset]
    assert method.actor_steps == (300_000 if "robomimic" in dataset else 1_000_000)
    assert method.actor_hidden == (4 * (2048,) if "robomimic" in dataset else (256, 256))
    assert (method.candidates, method.threshold, method.train_steps) == (30, -5, 1_000_000)
    assert (method.sampler, method.sampler_steps) == ("predictor_corrector", 500)
    assert run.gamma == 0.99
    locomotion, sparse = "walker2d" in dataset, "antmaze" in dataset or "robomimic" in dataset
    assert run.reward == ("range" if locomotion else "affine")
    assert (run.reward_scale, run.reward_shift) == (1000 if locomotion else 1, -1 if sparse else 0)


@pytest.mark.parametrize(
    ("file", "dataset"),
    [
        ("hopper_medium_replay-v2.hdf5", "hopper-medium-replay-v2"),
        ("/data/walker2d-medium-v2.hdf5", "walker2d-medium-v2"),
        (
            "Ant_maze_big-maze_noisy_multistart_True_multigoal_True_sparse_fixed.hdf5",
            "antmaze-medium-diverse-v0",
        ),
    ],
)
def test_a_d4rl_file_finds_its_tasks_row(file: str, dataset: str) -> None:
    assert presets.known_as(file) == dataset
    row = presets.overrides_for(dataset, "other", "bdpo")
    assert row and presets.overrides_for(file, "other", "bdpo") == row


AROUND_TD3 = ("bc", "td3_bc", "one_step", "td3_bst")


@pytest.mark.parametrize(
    ("dataset", "kind"),
    [
        ("hopper-medium-v2", "default"),
        ("walker2d/medium-v0", "default"),
        ("hopper/medium-v0", "default"),
        ("hopper/medium-v0", "cpu"),
    ],
)
def test_td3_bc_has_the_papers_settings_on_locomotion(dataset: str, kind: str) -> None:
    for algo in AROUND_TD3:
        run, method = config.resolve(choice(dataset, algo, kind), dataset, "locomotion")
        assert run.normalize_observations
        assert (run.reward, run.reward_scale, run.gamma) == ("affine", 1.0, 0.99)
    _, method = config.resolve(choice(dataset, "td3_bc", kind), dataset, "locomotion")
    shortened = kind == "cpu"
    assert (method.alpha, method.critic_layer_norm) == (2.5, shortened)
    assert method.train_steps == (50_000 if shortened else 1_000_000)
    assert method.actor_hidden == ((128, 128) if shortened else (256, 256))


def test_a_cpu_s_settings_are_asked_for_by_name() -> None:
    def source(dataset: str, algo: str, kind: str) -> str:
        return presets.preset(dataset, family_of(dataset), algo, "", kind).source

    assert source("hopper/medium-v0", "td3_bc", "default") == "its family's row (locomotion)"
    assert source("hopper/medium-v0", "bdpo", "default") == "its robot's row (hopper)"
    assert source("maze2d/umaze-v0", "arq", "default") == "the method's defaults"
    assert source("hopper/medium-v0", "td3_bc", "cpu") == "the dataset's row for a CPU"
    for name, rows in presets.CPU.items():  # sets of this library's own have no paper's settings
        same = name in cpu_presets.EMBEDDED
        for algo in rows.keys() - {"*"}:
            paper, ours = (
                presets.overrides_for(name, family_of(name), algo, "", kind)
                for kind in ("default", "cpu")
            )
            assert (paper == ours) == same, (name, algo)


def test_neorl2_s_own_settings_hold_with_both_presets() -> None:
    name = "neorl2/safetyhalfcheetah-train-v0"
    for kind, steps in (("default", 1_000_000), ("cpu", 50_000)):
        run, method = config.resolve(choice(name, "td3_bc", kind), name, "locomotion")
        assert (method.alpha, method.noise, method.train_steps) == (0.05, 2.5, steps)
        assert (run.normalize_observations, run.reward_scale) == (True, 1.0)


def test_a_missing_cpu_row_is_refused_with_the_datasets_that_have_one() -> None:
    with pytest.raises(ConfigError) as failure:
        config.resolve(choice("walker2d/medium-v0", "ibc", "cpu"), "walker2d/medium-v0", "")
    text = str(failure.value)
    assert "--preset=cpu has no settings of ibc for walker2d/medium-v0" in text
    assert "pendulum/mixed-v0" in text and "hopper/medium-v0" in text and "maze2d" not in text
    # A name is known before the data are.
    with pytest.raises(ConfigError, match="no settings of bdpo for maze2d/umaze-v0"):
        config.check(choice("maze2d/umaze-v0", "bdpo", "cpu"))
    config.check(choice("pendulum-mixed", "bdpo", "cpu"))
    with pytest.raises(ConfigError, match=r"of my_method for x\. It has them for no dataset"):
        presets.check_cpu("x", "my_method")


def test_iql_has_the_papers_settings() -> None:
    expected = {
        "hopper-medium-v2": (0.7, 3.0, "range", 1000.0, 0.0),
        "antmaze-umaze-v0": (0.9, 10.0, "affine", 1.0, -1.0),
        "pen-human-v1": (0.7, 0.5, "affine", 1.0, 0.0),
        "kitchen-mixed-v0": (0.7, 0.5, "affine", 1.0, 0.0),
    }
    for dataset, values in expected.items():
        run, method = config.resolve(choice(dataset, "iql"), dataset, family_of(dataset))
        found = run.reward, run.reward_scale, run.reward_shift
        assert (method.expectile, method.temperature, *found) == values
        assert (run.gamma, run.normalize_observations) == (0.99, False)


# FQL's published flags: alpha, q_agg, gamma, reward shift, updates
FQL_FLAGS = {
    "antmaze-umaze-v2": (10, "mean", 0.99, -1, 500_000),
    "antmaze-large-diverse-v2": (3, "mean", 0.99, -1, 500_000),
    "D4RL/antmaze/large-play-v1": (3, "mean", 0.99, -1, 500_000),
    "pen-cloned-v1": (10_000, "min", 0.99, 0, 500_000),
    "D4RL/pen/expert-v2": (3_000, "min", 0.99, 0, 500_000),
    "door-human-v1": (30_000, "min", 0.99, 0, 500_000),
    "relocate-human-v1": (10_000, "min", 0.99, 0, 500_000),
    "ogbench/antmaze-large-navigate-v0.npz": (10, "min", 0.99, 0, 1_000_000),
    "ogbench/antmaze-giant-navigate-v0.npz": (10, "min", 0.995, 0, 1_000_000),
    "ogbench/humanoidmaze-medium-navigate-v0.npz": (30, "mean", 0.995, 0, 1_000_000),
    "cube-single-play-singletask-task2-v0": (300, "mean", 0.99, 0, 1_000_000),
    "scene-play-singletask-v0": (300, "mean", 0.99, 0, 1_000_000),
    "puzzle-4x4-play-singletask-v0": (1_000, "mean", 0.99, 0, 1_000_000),
}


@pytest.mark.parametrize("dataset", FQL_FLAGS)
def test_fql_has_the_published_settings(dataset: str) -> None:
    # OGBench's reader knows the family of its data; other names tell it.
    family = "ogbench" if ogbench_names.of_path(dataset) else family_of(dataset)
    run, method = config.resolve(choice(dataset, "fql"), dataset, family)
    found = method.alpha, method.q_agg, run.gamma, run.reward_shift, method.train_steps
    assert found == FQL_FLAGS[dataset]
    assert (run.reward, run.reward_scale) == ("affine", 1)
    source = presets.preset(dataset, family, "fql").source
    assert source.startswith("its robot's" if family == "antmaze" else "its task's") or (
        source == "its family's row (antmaze)"
    )
    # Methods in one table play the same episodes.
    if family != "adroit":
        episodes = {
            config.resolve(choice(dataset, algo), dataset, family)[0].eval_episodes
            for algo in ("fql", "ifql", "td3_bc", "bdpo")
        }
        assert episodes == {100 if family == "antmaze" else 50}
    again, other = config.resolve(choice(dataset, "ifql"), dataset, family)
    assert (again.gamma, again.reward_shift, other.train_steps) == found[2:]
    assert (other.expectile, other.candidates) == (0.9, 128 if "relocate" in dataset else 32)


# ReBRAC's published configs, and FQL's tables 6 and 7: beta_1, beta_2, batch, rates, gamma
REBRAC_CONFIGS = {
    "halfcheetah-medium-v2": (0.001, 0.01, 1024, 1e-3, 1e-3, 0.99),
    "halfcheetah-medium-expert-v2": (0.01, 0.1, 1024, 1e-3, 1e-3, 0.99),
    "hopper-medium-replay-v2": (0.05, 0.5, 1024, 1e-3, 1e-3, 0.99),
    "mujoco/walker2d/medium-v0": (0.05, 0.1, 1024, 1e-3, 1e-3, 0.99),
    "antmaze-umaze-diverse-v2": (0.003, 0.001, 256, 3e-4, 5e-5, 0.999),
    "D4RL/antmaze/large-play-v1": (0.002, 0.001, 256, 3e-4, 5e-5, 0.999),
    "pen-human-v1": (0.1, 0.5, 256, 3e-4, 3e-4, 0.99),
    "D4RL/hammer/cloned-v2": (0.1, 0.5, 256, 3e-4, 3e-4, 0.99),
    "antmaze-large-navigate-singletask-task5-v0": (0.003, 0.01, 256, 3e-4, 3e-4, 0.99),
    "antmaze-giant-navigate-singletask-v0": (0.003, 0.01, 256, 3e-4, 3e-4, 0.995),
    "humanoidmaze-medium-navigate-singletask-v0": (0.01, 0.01, 256, 3e-4, 3e-4, 0.995),
    "humanoidmaze-large-navigate-singletask-v0": (0.01, 0.01, 256, 3e-4, 3e-4, 0.995),
    "antsoccer-arena-navigate-singletask-v0": (0.01, 0.01, 256, 3e-4, 3e-4, 0.995),
    "cube-single-play-singletask-task2-v0": (1.0, 0.0, 256, 3e-4, 3e-4, 0.99),
    "cube-double-play-singletask-v0": (0.1, 0.0, 256, 3e-4, 3e-4, 0.99),
    "scene-play-singletask-v0": (0.1, 0.01, 256, 3e-4, 3e-4, 0.99),
    "puzzle-3x3-play-singletask-v0": (0.3, 0.01, 256, 3e-4, 3e-4, 0.99),
    "puzzle-4x4-play-singletask-task1-v0": (0.3, 0.01, 256, 3e-4, 3e-4, 0.99),
}


@pytest.mark.parametrize("dataset", REBRAC_CONFIGS)
def test_rebrac_has_the_published_settings(dataset: str) -> None:
    ogbench = "singletask" in dataset
    family = "ogbench" if ogbench else family_of(dataset)
    run, method = config.resolve(choice(dataset, "rebrac"), dataset, family)
    rates = method.actor_learning_rate, method.critic_learning_rate
    found = method.actor_penalty, method.critic_penalty, method.batch_size, *rates, run.gamma
    assert found == REBRAC_CONFIGS[dataset]
    maze = family == "antmaze"
    assert (run.reward, run.reward_scale) == ("affine", 100 if maze else 1)
    assert (run.reward_shift, run.normalize_observations) == (0, False)
    assert method.critic_hidden == (4 * (512,) if ogbench else 3 * (256,))
    assert method.activation == ("gelu" if ogbench else "relu")
    episodes = config.resolve(choice(dataset, "fql"), dataset, family)[0].eval_episodes
    assert run.eval_episodes == episodes or family == "adroit"


def test_xql_awac_and_cql_have_the_published_settings() -> None:
    def found(dataset: str, algo: str, *names: str) -> tuple:
        run, method = config.resolve(choice(dataset, algo), dataset, family_of(dataset))
        rewards = run.reward, run.reward_scale, run.reward_shift
        return *(getattr(method, name) for name in names), run.gamma, *rewards

    names = "value_temperature", "max_exponent", "batch_size", "temperature"
    returns, minus_one = (0.99, "range", 1000, 0), (0.99, "affine", 1, -1)
    assert found("hopper-medium-v2", "xql", *names) == (5, 7, 1024, 3, *returns)
    assert found("walker2d-random-v2", "xql", *names) == (2, 7, 256, 3, *returns)
    assert found("antmaze-large-play-v0", "xql", *names) == (0.6, 5, 1024, 10, *minus_one)
    assert found("kitchen-mixed-v0", "xql", *names)[:4] == (8, 7, 1024, 0.5)
    raw = 0.99, "affine", 1, 0
    names = "weights", "temperature"
    assert found("hopper-medium-v2", "awac", *names) == ("exponential", 3, *raw)
    assert found("antmaze-umaze-v0", "awac", *names) == ("exponential", 10, *minus_one)
    names = "conservatism", "lagrange", "target_gap"
    assert found("hopper-medium-v2", "cql", *names)[:2] == (5, False)
    assert found("hopper-medium-v2", "cql") == raw
    assert found("antmaze-umaze-v0", "cql", *names) == (5, True, 1, 0.99, "affine", 4, -2)


# main.py of Diffusion-QL: eta, max_q_backup, gn, lr, reward scale and shift, thousands of updates
DQL_ROWS = {
    "halfcheetah-medium-v2": (1.0, False, 9.0, 3e-4, 1, 0, 2_000),
    "walker2d-medium-expert-v2": (1.0, False, 5.0, 3e-4, 1, 0, 2_000),
    "antmaze-umaze-v0": (0.5, False, 2.0, 3e-4, 4, -2, 1_000),
    "antmaze-medium-play-v0": (2.0, True, 2.0, 1e-3, 4, -2, 1_000),
    "antmaze-large-play-v0": (4.5, True, 10.0, 3e-4, 4, -2, 1_000),
    "pen-human-v1": (0.15, False, 7.0, 3e-5, 1, 0, 1_000),
    "kitchen-complete-v0": (0.005, False, 9.0, 3e-4, 1, 0, 250),
}
# runs.sh of DAC: eta, eta_lr, bc_threshold, rho, maxQ, critic_lr
DAC_ROWS = {
    "walker2d-medium-v2": (1, 0.001, 1, 1.0, False, 3e-4),
    "hopper-medium-expert-v2": (1, 0.001, 0.05, 1.5, False, 3e-4),
    "halfcheetah-medium-expert-v2": (1, 0.001, 0.1, 0.0, False, 3e-4),
    "antmaze-medium-play-v0": (0.1, 0, 1, 1.0, True, 3e-4),
    "antmaze-large-play-v0": (0.1, 0, 1, 1.1, True, 1e-3),
    "antmaze-large-diverse-v0": (0.1, 0, 1, 1.0, True, 1e-3),
}
# QAM's runs of DAC: alpha, rho, gamma
DAC_OGBENCH = {
    "antmaze-large-navigate-singletask-task1-v0": (0.3, 0.5, 0.99),
    "humanoidmaze-medium-navigate-singletask-v0": (1.0, 0.0, 0.995),
    "humanoidmaze-large-navigate-singletask-task2-v0": (0.3, 0.0, 0.995),
    "cube-double-play-singletask-task2-v0": (3.0, 0.5, 0.99),
    "cube-triple-play-singletask-task5-v0": (0.3, 0.5, 0.99),
    "puzzle-4x4-play-singletask-v0": (1.0, 0.5, 0.99),
}


def test_diffusion_ql_and_dac_have_the_published_settings() -> None:
    def resolved(dataset: str, algo: str) -> tuple[config.RunConfig, Any]:
        family = "ogbench" if ogbench_names.of_path(dataset) else family_of(dataset)
        return config.resolve(choice(dataset, algo), dataset, family)

    for name, expected in DQL_ROWS.items():
        run, dql = resolved(name, "dql")
        found = dql.eta, dql.max_backup, dql.clip_norm, dql.actor_learning_rate
        processing = run.reward_scale, run.reward_shift
        assert (*found, *processing, dql.train_steps // 1_000) == expected, name
        assert (run.reward, run.gamma) == ("affine", 0.99)
    for name, expected in DAC_ROWS.items():
        _, dac = resolved(name, "dac")
        found = dac.eta, dac.eta_rate, dac.bc_threshold, dac.rho, dac.max_backup
        assert (*found, dac.critic_learning_rate) == expected, name
    for name, expected in DAC_OGBENCH.items():
        run, dac = resolved(name, "dac")
        assert (dac.eta, dac.rho, run.gamma) == expected, name
        assert (dac.diffusion_steps, dac.normalize_q, dac.eta_rate) == (10, False, 0)
        assert dac.activation == "gelu"
    for name, expectile, shift in (("hopper-medium-v2", 0.7, 0), ("antmaze-umaze-v0", 0.9, -1)):
        run, idql = resolved(name, "idql")
        assert (idql.expectile, run.reward_shift, run.gamma) == (expectile, shift, 0.99)


# FQL's runs of IDQL: expectile, width of two layers, gamma. Below them, what is ours.
IDQL_OGBENCH = {
    "antmaze-large-navigate-singletask-task3-v0": (0.7, 512, 0.99),
    "humanoidmaze-large-navigate-singletask-v0": (0.7, 512, 0.995),
    "antsoccer-arena-navigate-singletask-v0": (0.7, 512, 0.995),
    "cube-double-play-singletask-task2-v0": (0.9, 256, 0.99),
    "puzzle-4x4-play-singletask-v0": (0.9, 256, 0.99),
    "cube-triple-play-singletask-v0": (0.9, 256, 0.99),
}
# What RQL's methods share: rho, gamma
BDPO_OGBENCH = {
    "antmaze-large-navigate-singletask-v0": (0.5, 0.99),
    "antmaze-giant-navigate-singletask-task4-v0": (0.5, 0.995),
    "humanoidmaze-medium-navigate-singletask-v0": (0.0, 0.995),
    "scene-play-singletask-v0": (0.5, 0.99),
    "cube-quadruple-play-100m-singletask-v0": (0.5, 0.99),
}


def test_idql_and_bdpo_on_ogbench() -> None:
    for name, expected in IDQL_OGBENCH.items():
        run, idql = config.resolve(choice(name, "idql"), name, "ogbench")
        assert (idql.expectile, idql.critic_hidden[0], run.gamma) == expected, name
        assert (idql.candidates, len(idql.critic_hidden), idql.train_steps) == (32, 2, 3_000_000)
        assert (run.reward, run.reward_scale, run.reward_shift) == ("affine", 1, 0)
    for name, expected in BDPO_OGBENCH.items():
        run, bdpo = config.resolve(choice(name, "bdpo"), name, "ogbench")
        assert (bdpo.rho, run.gamma) == expected, name
        assert (bdpo.diffusion_steps, bdpo.critic_ensemble_size) == (10, 10)
        assert bdpo.actor_hidden == bdpo.critic_hidden == 4 * (512,)
        assert bdpo.activation == "gelu"
        assert (bdpo.pretrain_steps, bdpo.train_steps) == (1_000_000, 2_000_000)
        assert run.eval_episodes == 50
    _, ifql = config.resolve(choice(name, "ifql"), "antsoccer-arena-navigate-v0", "ogbench")
    assert ifql.candidates == 64


def test_a_suite_has_qam_s_settings_where_the_data_or_rewards_are_others() -> None:
    own = {row.data: row.own for row in suites.SUITES["ogbench50"]}
    weights = {data: rows["rebrac"] for data, rows in own.items() if rows}
    assert weights["scene-play"] == ("actor_penalty=0.03", "critic_penalty=0", "noise=0")
    assert weights["puzzle-4x4-play-100m"] == ("actor_penalty=0.01", "critic_penalty=0")
    assert {data for data in own if data not in weights} == {
        *(f"antmaze-{size}-navigate" for size in ("large", "giant")),
        *(f"humanoidmaze-{size}-navigate" for size in ("medium", "large")),
        "cube-double-play",
    }
    for data, words in weights.items():
        name = f"{data}-singletask-task1-v0"
        _, method = config.resolve(choice(name, "rebrac", words=words), name, "ogbench")
        assert method.critic_penalty == 0 and method.noise in (0, 0.2)


@pytest.mark.parametrize("algo", ["td3_bst", "iql_bst"])
def test_behavioural_supervisor_tuning_has_one_setting(algo: str) -> None:
    """For every family with rows but the pendulum; adroit and kitchen add other rows' actions."""
    one = ("detached", "standardised", 4.0, 0.5, 3_000, 3_000)
    many_dimensions = {"adroit", "kitchen"}
    chosen = {
        **dict.fromkeys(("locomotion", "antmaze", "maze2d", "pointmaze", *many_dimensions), one),
        "pendulum": ("full", "mean", 16.0, 0.0, 0, 10_000),  # with settings of its own
    }
    fields = "weight_gradient", "distance", "mu", "near", "clone_steps", "pretrain_steps"
    sets = {name: "cpu" for name in presets.CPU if presets.has_cpu(name, algo)}
    sets |= {"hopper-medium-v2": "default", "D4RL/antmaze/umaze-v1": "default"}
    sets |= {"D4RL/kitchen/mixed-v2": "default", "D4RL/pen/human-v2": "default"}
    for name, kind in sets.items():
        family = family_of(name)
        method = config.resolve(choice(name, algo, kind), name, family)[1]
        assert tuple(getattr(method, field) for field in fields) == chosen[family], name
        assert method.shuffled == (0.5 if family in many_dimensions else 0.0)
        assert (method.kernel, method.kernel_scale, method.negative_weight) == ("rbf", "k/2", 1.0)


@pytest.mark.parametrize(
    ("algo", "robot", "strengths"),
    [
        ("bdpo", "hopper", {"rho": 2.0, "eta": 2.0, "train_steps": 60_000}),
        ("bdpo", "halfcheetah", {"rho": 0.5, "eta": 0.05, "train_steps": 60_000}),
        ("arq", "hopper", {"kth": 8, "alpha": 3.0, "actor_alpha": 3.0, "train_steps": 30_000}),
        ("arq", "halfcheetah", {"kth": 8, "alpha": 3.0, "actor_alpha": 3.0}),
    ],
)
def test_a_robot_has_one_cpu_row(algo: str, robot: str, strengths: dict[str, float]) -> None:
    names = [f"{robot}/{quality}-v0" for quality in ("medium", "medium-replay", "mixed")]
    found = [config.resolve(choice(name, algo, "cpu"), name, "locomotion")[1] for name in names]
    assert found == 3 * found[:1]
    assert {name: getattr(found[0], name) for name in strengths} == strengths


def test_bdpo_s_rows_are_not_shortened() -> None:
    for name in set(cpu_presets.SHORT_SETS) - set(cpu_presets.SMALL):
        run, method = config.resolve(choice(name, "bdpo"), name, family_of(name))
        assert (method.train_steps, run.eval_every) == (2_000_000, 50_000)
