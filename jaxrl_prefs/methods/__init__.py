"""The methods, each a module with `Config`, `State`, `make(config, spec)` and its losses."""

from __future__ import annotations

from jaxrl_prefs.methods import (
    arq,
    awac,
    bc,
    bdpo,
    bpr,
    cql,
    dac,
    dql,
    fql,
    ibc,
    idql,
    ifql,
    iql,
    iql_bst,
    one_step,
    rebrac,
    td3_bc,
    td3_bst,
    xql,
)

METHODS = {
    "bdpo": bdpo,
    "arq": arq,
    "td3_bst": td3_bst,
    "iql_bst": iql_bst,
    "bpr": bpr,
    "td3_bc": td3_bc,
    "rebrac": rebrac,
    "iql": iql,
    "xql": xql,
    "awac": awac,
    "cql": cql,
    "one_step": one_step,
    "fql": fql,
    "ifql": ifql,
    "dql": dql,
    "idql": idql,
    "dac": dac,
    "bc": bc,
    "ibc": ibc,
}
