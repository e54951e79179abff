"""Launching several processes of one program, with torchrun as a library or with Ray.

A command goes in and runs on every rank; the exit code of the first failing rank comes out. Signals reach every rank.
"""
