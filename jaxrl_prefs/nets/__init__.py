"""Networks behind `Net(init, apply)`. No other folder uses Flax modules."""

from __future__ import annotations

from jaxrl_prefs.nets.encoders import ENCODERS, MIN_SIZE, image_and_vector
from jaxrl_prefs.nets.ensembles import ensemble, over_members, with_action_gradient
from jaxrl_prefs.nets.layers import ACTIVATIONS, INITIALISERS, mish, orthogonal, swish
from jaxrl_prefs.nets.mlp import mlp, residual_mlp, scalar_mlp
from jaxrl_prefs.nets.time_conditioned import (
    score_net,
    stepped_mlp,
    stepped_residual_mlp,
    stepped_scalar_mlp,
)
from jaxrl_prefs.nets.views import viewed

__all__ = [
    "ACTIVATIONS",
    "ENCODERS",
    "INITIALISERS",
    "MIN_SIZE",
    "ensemble",
    "image_and_vector",
    "mish",
    "mlp",
    "orthogonal",
    "over_members",
    "residual_mlp",
    "scalar_mlp",
    "score_net",
    "stepped_mlp",
    "stepped_residual_mlp",
    "stepped_scalar_mlp",
    "swish",
    "viewed",
    "with_action_gradient",
]
