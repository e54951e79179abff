"""Whether two scores are told apart: the outcomes of two models on the same dev examples go in; differences with
confidence intervals come out."""
