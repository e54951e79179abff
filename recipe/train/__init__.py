"""Pre-training: a model and sequences go in; checkpoints, a log and the run's record come out."""
