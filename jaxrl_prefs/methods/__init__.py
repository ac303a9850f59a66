"""The methods, each a module with `Config`, `State`, `make(config, spec)` and its losses."""

from __future__ import annotations

from jaxrl_prefs.methods import arq, bdpo, bpr, ibc

METHODS = {"arq": arq, "bdpo": bdpo, "bpr": bpr, "ibc": ibc}
