"""Behaviour models: what describes the data's own actions."""
