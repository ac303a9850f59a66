"""Evaluation: playing the policies of all seeds, and a method's own warning signs."""
