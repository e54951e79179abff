"""Averages of the weights of checkpoints: checkpoints of one run go in, a checkpoint that every sweep can score comes
out."""
