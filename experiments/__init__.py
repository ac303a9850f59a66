"""Thin programs around the library: they may import everything, and nothing imports them."""
