"""Pre-training: a model and sequences go in; whole checkpoints, a log and a run record come out."""
