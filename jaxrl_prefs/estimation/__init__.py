"""Estimation: what a policy is worth, from recorded data alone; and how good such estimates are."""
