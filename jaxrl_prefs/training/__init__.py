"""Training: all seeds through all phases of a method, in compiled chunks."""
