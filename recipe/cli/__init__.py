"""The command line: dataclasses and `sys.argv` go in, validated arguments come out.

It also ends programs: a user's mistake gives a one-line message and exit code 2.
"""
