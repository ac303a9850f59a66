"""Many seeds on many devices, and several processes as one run."""
