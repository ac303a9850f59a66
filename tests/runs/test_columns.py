from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jaxrl_prefs.parallel import seed_axis
from jaxrl_prefs.runs import columns
from jaxrl_prefs.training import loop
from jaxrl_prefs.types import Spec, Transition
from tests import probes


@pytest.mark.parametrize("shared", [False, True])
def test_a_fill_goes_on_from_disk(tiny: Transition, tmp_path: Path, shared: bool) -> None:
    method = probes.make(probes.Config(model_steps=2, shared=shared), Spec.of(tiny))
    mesh, seeds = seed_axis.seed_mesh(), (0, 1, 2)
    log_points = list(loop.run(method, tiny, seeds, mesh, every=100))
    whole = log_points[-1].columns["guess"].copy()

    for log_point in loop.run(method, tiny, seeds, mesh, every=3):
        columns.write(tmp_path, method, log_point)
        if log_point.phase == "guess":
            state, step = seed_axis.trim(log_point.state, len(seeds)), log_point.step
            break
    found = columns.read(tmp_path, method, step)
    assert not np.array_equal(found["guess"], whole)
    rest = loop.run(method, tiny, seeds, mesh, every=3, state=state, columns=found, start=step)
    for log_point in rest:
        columns.write(tmp_path, method, log_point)
    np.testing.assert_array_equal(columns.read(tmp_path, method, log_point.step)["guess"], whole)


def test_a_phase_that_was_not_begun_has_no_columns(tiny: Transition, tmp_path: Path) -> None:
    method = probes.make(probes.Config(model_steps=2), Spec.of(tiny))
    assert columns.read(tmp_path, method, 2) == {}
