"""Other codes' networks, updates and policies as methods of ours, for `benchmarks.parity.compare`.

Each module has our method's `Config`, and reads it under the other code's names. Their discount is
1, and a row's "done" what our `discount` takes off, so that their targets are r + discount * V(s').
"""
