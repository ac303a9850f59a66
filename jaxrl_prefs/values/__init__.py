"""Values: critics, their targets, and the losses by which a policy improves on them."""
