"""Base layer: errors a user can act on, atomic files and locks, paths, secrets, the hub's reachability and the process
itself.

Nothing of machine learning enters here, and this package imports no other one of this repository.
"""
