"""Objectives: blocks of token ids go in; batches with masked positions and labels, or with next tokens, come out.

A batch is a pure function of the seed and its sequence numbers. The unigram baseline, which a trained model must beat,
is here too.
"""
