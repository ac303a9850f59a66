from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jaxrl_prefs.parallel import seed_axis as ensemble
from jaxrl_prefs.runs import columns
from jaxrl_prefs.training import loop as train
from jaxrl_prefs.types import Spec, Transition
from tests import probes


@pytest.mark.parametrize("shared", [False, True])
def test_a_fill_goes_on_from_disk(tiny: Transition, tmp_path: Path, shared: bool) -> None:
    method = probes.make(probes.Config(model_steps=2, shared=shared), Spec.of(tiny))
    mesh, seeds = ensemble.seed_mesh(), (0, 1, 2)
    ticks = list(train.run(method, tiny, seeds, mesh, every=100))
    whole = ticks[-1].columns["guess"].copy()

    for tick in train.run(method, tiny, seeds, mesh, every=3):
        columns.write(tmp_path, method, tick)
        if tick.phase == "guess":
            state, step = ensemble.trim(tick.state, len(seeds)), tick.step
            break
    found = columns.read(tmp_path, method, step)
    assert not np.array_equal(found["guess"], whole)
    rest = train.run(method, tiny, seeds, mesh, every=3, state=state, columns=found, start=step)
    for tick in rest:
        columns.write(tmp_path, method, tick)
    np.testing.assert_array_equal(columns.read(tmp_path, method, tick.step)["guess"], whole)


def test_a_phase_that_was_not_begun_has_no_columns(tiny: Transition, tmp_path: Path) -> None:
    method = probes.make(probes.Config(model_steps=2), Spec.of(tiny))
    assert columns.read(tmp_path, method, 2) == {}
