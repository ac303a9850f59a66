"""Runs: configs, folders, checkpoints, records and results of training."""
