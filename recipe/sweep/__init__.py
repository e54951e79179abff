"""The sweep: checkpoints, tasks and seeds go in; each job is run once, by whichever worker claims it.

After each job the scores of its suite are rebuilt.
"""
