"""Base layer: errors for users, atomic file writes, locks, path checks, redaction of secrets, whether the Hugging Face
hub is reachable, and settings of the process.

Nothing here is about machine learning, and nothing is imported from other packages of this repository.
"""
