"""The line that says which preset a run took."""

from __future__ import annotations

import pytest

from jaxrl_prefs.runs import config, settings


@pytest.mark.parametrize(
    ("name", "family", "algo", "start"),
    [
        ("hopper/medium-v0", "locomotion", "bpr", "its family's row (locomotion); other than its"),
        ("pendulum/mixed-v0", "pendulum", "bc", "the dataset's own row; other than its defaults: "),
        ("mine/hopper-v0", "locomotion", "bdpo", "its robot's row (hopper); other than its"),
        ("mine/ant-v0", "locomotion", "bdpo", "its family's row (locomotion); other than its"),
        ("mine/set-v0", "other", "bdpo", "the method's defaults; all at their defaults"),
        ("downloads/hopper_medium-v2.hdf5", "locomotion", "bdpo", "the dataset's own row; "),
    ],
)
def test_the_row_is_named(name: str, family: str, algo: str, start: str) -> None:
    choice = config.Choice(algo, name, "", (0,), ())
    run, method = config.resolve(choice, name, family)
    assert settings.describe(run, method, family).startswith(start)


def test_a_cpu_s_row_is_named_and_where_it_would_train_less() -> None:
    def told(name: str, *assignments: str) -> tuple[str, str]:
        run, method = config.resolve(config.Choice("bpr", name, "", (0,), assignments), name, "")
        return settings.describe(run, method, "").partition(";")[0], settings.cpu_note(run)

    text, note = told("hopper/medium-v0")
    assert text == "the method's defaults"
    assert note.startswith("--preset=cpu has smaller networks and fewer updates of bpr on hopper/m")
    assert told("hopper/medium-v0", "preset=cpu") == ("the dataset's row for a CPU", "")
    assert told("mine/set-v0") == ("the method's defaults", "")
    assert told("pendulum/mixed-v0")[1] == ""  # its own row is a CPU's
    choice = config.Choice("bpr", "hopper/medium-v0", "", (0,), ("preset=cpu",))
    assert "preset" not in settings.differing(config.resolve(choice, choice.dataset, "")[0])


def test_what_differs_is_listed_and_shortened() -> None:
    choice = config.Choice("bdpo", "mine/set-v0", "", (0,), ("eta=2", "keep=7", "clip_norm=0"))
    run, method = config.resolve(choice, "mine/set-v0", "other")
    expected = "other than its defaults: eta=2.0, clip_norm=0.0, keep=7"
    assert settings.describe(run, method, "other").endswith(expected)
    swept = settings.describe(run, method, "other", swept=["clip_norm"])
    assert swept.endswith("other than its defaults: eta=2.0, keep=7")
    many = [f"{name}=3" for name in ("rho", "q_samples", "v_samples", "actor_samples", "tau")]
    choice = config.Choice(
        "bdpo",
        "x",
        "",
        (0,),
        (*many, "eta=2", "keep=7", "actor_hidden=8,8", "batch_size=9", "gamma=.5"),
    )
    run, method = config.resolve(choice, "x", "other")
    text = settings.describe(run, method, "other")
    assert text.endswith("and 2 more") and text.count("=") == settings.SHOWN


def test_what_the_user_set_comes_before_what_the_preset_does() -> None:
    choice = config.Choice("bdpo", "pendulum/mixed-v0", "", (0,), ("tau=0.5", "eval_episodes=3"))
    run, method = config.resolve(choice, choice.dataset, "pendulum")
    text = settings.describe(run, method, "pendulum")
    assert text.index("tau=0.5") < text.index("eval_episodes=3") < text.index("q_samples=4")
