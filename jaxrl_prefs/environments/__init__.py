"""Environments: where policies are evaluated."""
