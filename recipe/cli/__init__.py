"""The command line: dataclasses and `sys.argv` go in, checked arguments come out.

It also decides how a program ends: one line and exit code 2 for a user's mistake.
"""
