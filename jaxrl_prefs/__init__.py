"""Behaviour-regularised offline reinforcement learning in JAX.

The face of the library: the contract, its records, the methods by name, and `load_run`. Simulators
and dataset readers are imported where they are used, so `import jaxrl_prefs` stays light.
"""

from __future__ import annotations

from jaxrl_prefs.method import Method, Phase, Policy
from jaxrl_prefs.methods import METHODS
from jaxrl_prefs.runs.load import load_run
from jaxrl_prefs.types import Net, Spec, Transition

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "Method",
    "Net",
    "Phase",
    "Policy",
    "Spec",
    "Transition",
    "__version__",
    "load_run",
]
