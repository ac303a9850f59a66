"""`python -m experiments.toy` is the command `jaxrl-prefs toy`."""
