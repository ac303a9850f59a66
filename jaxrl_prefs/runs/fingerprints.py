"""Checksums of what runs are trained on."""

from __future__ import annotations

import hashlib

import jax
import numpy as np

from jaxrl_prefs.data import PreparedDataset
from jaxrl_prefs.mapped_rows import blocks


def of(dataset: PreparedDataset) -> str:
    """The checksum of what is trained on, SHA-256: `data.sha256` of config.json."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(dataset.transitions):
        for _, part in blocks(leaf):
            digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()
