"""Several processes of one program, by torchrun as a library or by Ray.

A command goes in; the same command runs on every rank; the first bad exit code comes out, and signals reach every rank.
"""
