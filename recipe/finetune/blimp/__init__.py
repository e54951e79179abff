"""Minimal pairs, zero-shot (BLiMP, Warstadt et al., 2020): does a language model find the acceptable one of two
sentences likelier? Enters a checkpoint and files of pairs; leaves accuracies with standard errors, and each pair's
scores."""
