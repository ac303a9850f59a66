from __future__ import annotations

import dataclasses

import pytest

from jaxrl_prefs import data
from jaxrl_prefs.data import Processing
from jaxrl_prefs.errors import ConfigError
from jaxrl_prefs.methods import METHODS
from jaxrl_prefs.runs import config, overrides, presets, renamed
from jaxrl_prefs.runs.config import Choice, RunConfig

CHOICE = Choice(algo="bdpo", dataset="some/set-v0", env="", seeds=(0, 1), assignments=())


@pytest.mark.parametrize("algo", METHODS)
def test_no_field_belongs_to_run_and_method_both(algo: str) -> None:
    own = overrides.field_types(RunConfig)
    assert not own.keys() & overrides.field_types(METHODS[algo].Config).keys()


def test_the_run_has_every_field_of_the_processing() -> None:
    assert set(Processing._fields) < overrides.field_types(RunConfig).keys()
    assert RunConfig().processing == Processing()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("5", (0, 1, 2, 3, 4)), ("1", (0,)), ("3:8", (3, 4, 5, 6, 7)), ("1,4", (1, 4)), ("7,", (7,))],
)
def test_seeds(text: str, expected: tuple[int, ...]) -> None:
    assert config.parse_seeds(text) == expected


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "8:3", "3:3", "1,1", "a", "1:2:3", "-2,3", "1.5", ","]
)
def test_bad_seeds(text: str) -> None:
    with pytest.raises(ConfigError, match="--seeds"):
        config.parse_seeds(text)


def test_values_come_from_family_then_row_then_the_command_line() -> None:
    name = "antmaze-umaze-diverse-v0"
    run, method = config.resolve(CHOICE, name, "antmaze")
    assert (run.gamma, run.reward_scale, run.eval_episodes) == (0.995, 100.0, 100)
    assert (method.eta, method.candidates, method.max_backup) == (0.5, 1, True)
    assert (run.dataset, run.seeds) == (name, (0, 1))
    choice = dataclasses.replace(CHOICE, assignments=("gamma=.9", "eta=2", "eval_episodes=3"))
    run, method = config.resolve(choice, name, "antmaze")
    assert (run.gamma, method.eta, run.eval_episodes) == (0.9, 2.0, 3)
    assert (run.reward_scale, method.candidates) == (100.0, 1)


@pytest.mark.parametrize("family", ["locomotion", "antmaze", "pendulum", "adroit", "other"])
def test_a_dataset_without_a_row_takes_its_familys_defaults(family: str) -> None:
    run, method = config.resolve(CHOICE, "unknown/set-v0", family)
    assert run.processing == data.defaults(family)
    expected = METHODS["bdpo"].Config(**presets.FAMILIES.get(family, {}).get("bdpo", {}))
    assert method == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"algo": "bdqo"}, "no algorithm 'bdqo'. Did you mean 'bdpo'?"),
        ({"assignments": ("etta=1",)}, "no field 'etta'. Did you mean 'eta'?"),
        ({"assignments": ("log_evry=1",)}, "Did you mean 'log_every'?"),
        ({"assignments": ("seeds=3",)}, "flag of its own: --seeds"),
        ({"assignments": ("eta=x",)}, "field 'eta' takes a float, and got 'x'"),
        ({"assignments": ("keep=0",)}, "'keep' must be at least 1"),
        ({"assignments": ("gamma=1.5",)}, "'gamma' must lie in 0 to 1"),
        ({"assignments": ("mapping=pmap",)}, "one of auto, loop, vmap"),
        ({"assignments": ("preset=gpu",)}, "'preset' takes one of default, cpu, and got 'gpu'"),
        ({"assignments": ("preset=cpu",)}, "no settings of bdpo for some/set-v0. It has them for"),
        ({"values": {"preset": "cpu"}}, "no settings of bdpo for some/set-v0"),
        ({"assignments": ("checkpoint_minutes=-1",)}, "'checkpoint_minutes' must be at least 0"),
        ({"assignments": ("n_step=0",)}, "'n_step' must be at least 1"),
        ({"assignments": ("action_chunk=0",)}, "'action_chunk' must be at least 1"),
        ({"assignments": ("replan=2",)}, "'replan' must lie in 1 to action_chunk=1"),
        (
            {"assignments": ("action_chunk=3", "replan=4")},
            "lie in 1 to action_chunk=3",
        ),
    ],
)
def test_a_wrong_choice_is_found_before_any_data_are_loaded(change: dict, message: str) -> None:
    with pytest.raises(ConfigError) as failure:
        config.check(dataclasses.replace(CHOICE, **change))
    assert message in str(failure.value)


def test_fields_of_run_and_method_alike_are_listed() -> None:
    with pytest.raises(ConfigError) as failure:
        config.check(dataclasses.replace(CHOICE, assignments=("nothing=1",)))
    assert "critic_ensemble_size" in str(failure.value) and "log_every" in str(failure.value)


def test_raw_rewards_are_not_scaled_as_a_range_is() -> None:
    """A family's scale of 1000 is the range of returns, and no factor of raw rewards."""
    for assignments, expected in (
        ((), ("range", 1000.0)),
        (("reward=affine",), ("affine", 1.0)),
        (("reward=affine", "reward_scale=10"), ("affine", 10.0)),
        (("reward=range",), ("range", 1000.0)),
        (("reward_scale=500",), ("range", 500.0)),
    ):
        choice = dataclasses.replace(CHOICE, assignments=assignments)
        run, _ = config.resolve(choice, "unknown/set-v0", "locomotion")
        assert (run.reward, run.reward_scale) == expected, assignments


def test_bpr_s_equation_can_be_had_to_the_letter() -> None:
    """Raw Q of raw rewards; neither preset scales what is asked for raw."""
    for kind in ("default", "cpu"):
        fields = (f"preset={kind}", "q_scale=raw", "reward=affine")
        choice = Choice("bpr", "halfcheetah/mixed-v0", "", (0,), fields)
        run, method = config.resolve(choice, choice.dataset, "locomotion")
        assert (run.reward, run.reward_scale, run.reward_shift) == ("affine", 1.0, 0.0)
        assert (method.q_scale, method.lam, method.alpha) == ("raw", 1.0, 0.0)


def test_a_folder_without_a_later_field_is_read_as_it_was_run() -> None:
    added = {"preset": "default", "clip_actions": False, "holdout": 0.0}
    added |= {"n_step": 1, "action_chunk": 1, "replan": 0, "precision": "float32"}
    added |= {"frame_stack": 3, "encoder": "drq", "encoder_features": 50}
    added |= {"encoder_learning_rate": 3e-4, "image_shift": 4, "encoder_sharing": "shared"}
    added |= {"deterministic": False, "checkpoint_minutes": 0.0}
    assert renamed.present({"run": {"algo": "bc"}})["run"] == {"algo": "bc", **added}
    own = {"run": {"algo": "bc", "clip_actions": True}}
    assert renamed.present(own)["run"]["clip_actions"] is True
    for name, value in renamed.ADDED.items():
        assert getattr(RunConfig(), name) == value


@pytest.mark.parametrize(
    ("algo", "dataset", "expected"),
    [
        ("td3_bc", "hopper/medium-v0", "cpu"),
        ("rebrac", "hopper/medium-v0", "default"),
        ("td3_bc", "pendulum/mixed-v0", "default"),
        ("td3_bc", "mujoco/hopper/medium-v0", "default"),
    ],
)
def test_the_name_of_the_data_chose_the_preset_of_an_older_run(
    algo: str, dataset: str, expected: str
) -> None:
    run = {"algo": algo, "dataset": dataset}
    assert renamed.present({"run": run})["run"]["preset"] == expected
    asked = {"run": run | {"preset": "default"}}
    assert renamed.present(asked)["run"]["preset"] == "default"


@pytest.mark.parametrize("how", ["assignments", "values"])
def test_the_preset_is_chosen_before_other_fields_are_set(how: str) -> None:
    own: dict = {"assignments": ("eta=3", "preset=default", "preset=cpu")}
    if how == "values":
        own = {"values": {"preset": "cpu", "eta": 3.0}}
    choice = dataclasses.replace(CHOICE, dataset="hopper/medium-v0", **own)
    config.check(choice)
    run, method = config.resolve(choice, choice.dataset, "locomotion")
    assert (run.preset, run.eval_every, method.train_steps, method.eta) == ("cpu", 4_000, 60_000, 3)


def test_a_folder_without_a_later_field_of_its_method_is_read_as_it_was_run() -> None:
    about = {"run": {"algo": "bdpo"}, "method": {"eta": 1.0}}
    assert renamed.present(about)["method"] == {"eta": 1.0, "value_step_hidden": 64}
    for algo, fields in renamed.ADDED_TO_METHOD.items():
        for name, value in fields.items():
            assert getattr(METHODS[algo].Config(), name) == value
