"""Training: the loop, update rules, snapshots, signals."""
