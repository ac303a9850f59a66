from __future__ import annotations

import pytest

from jaxrl_prefs.data import families


@pytest.mark.parametrize(
    ("name", "env_id", "family"),
    [
        ("hopper/medium-v0", "Hopper-v5", "locomotion"),
        ("mujoco/ant/expert-v0", "Ant-v5", "locomotion"),
        ("neorl2/safetyhalfcheetah-train-v0", "", "locomotion"),
        ("pen/hopper_medium_replay-v2.hdf5", "Hopper-v5", "locomotion"),
        ("walker2d_medium-v2.hdf5", "", "locomotion"),
        ("D4RL/antmaze/umaze-v1", "AntMaze_UMaze-v4", "antmaze"),
        ("D4RL/pen/human-v2", "AdroitHandPen-v1", "adroit"),
        ("demos.hdf5", "AdroitHandRelocate-v1", "adroit"),
        ("D4RL/kitchen/complete-v2", "FrankaKitchen-v1", "kitchen"),
        ("D4RL/pointmaze/umaze-v2", "PointMaze_UMaze-v3", "pointmaze"),
        ("maze2d/umaze-v0", "jaxrl_prefs/Maze2dUMaze-v0", "maze2d"),
        ("ogbench/antmaze-large-navigate-singletask-task1-v0", "", "ogbench"),
        ("pendulum/mixed-v0", "Pendulum-v1", "pendulum"),
        ("mujoco/invertedpendulum/expert-v0", "InvertedPendulum-v5", "other"),
        ("mujoco/reacher/expert-v0", "Reacher-v5", "other"),
    ],
)
def test_family_of(name: str, env_id: str, family: str) -> None:
    assert families.family_of(name, env_id) == family


def test_defaults_of_the_benchmarks() -> None:
    locomotion = families.defaults("locomotion")
    assert (locomotion.gamma, locomotion.reward, locomotion.reward_scale) == (0.99, "range", 1000.0)
    antmaze = families.defaults("antmaze")
    assert (antmaze.gamma, antmaze.reward, antmaze.reward_scale) == (0.995, "affine", 100.0)
    assert families.defaults("adroit") == families.Processing()
    assert families.defaults("other") == families.Processing()
