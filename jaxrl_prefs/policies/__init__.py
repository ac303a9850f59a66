"""Policies: networks that act, all behind one interface (interface.py)."""
