"""IFQL of seohongpark/fql, with ml_collections and distrax.

All its networks have one learning rate, and its flow is integrated by Euler's method. The critics'
loss that it reports is the sum over the two.
"""

from __future__ import annotations

from benchmarks.parity.fql import IFQL
from benchmarks.parity.peers import fql
from jaxrl_prefs.method import Method
from jaxrl_prefs.methods.ifql import Config
from jaxrl_prefs.policies import candidates
from jaxrl_prefs.types import Spec

State = fql.State


def make(config: Config, spec: Spec) -> Method:
    """Their method with our settings."""
    count = config.candidates
    settings = fql.shared_settings(config) | {"expectile": config.expectile, "num_samples": count}
    return fql.method_of(IFQL, config, settings, spec, count, candidates.rule("min Q", count))
