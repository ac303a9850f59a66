"""Datasets that are generated on this machine."""
