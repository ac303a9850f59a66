"""The 2-D tasks: `python -m experiments.toy --algo=bdpo --task=8gaussians`."""
