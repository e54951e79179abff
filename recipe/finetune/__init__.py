"""Fine-tuning: one checkpoint, one task and one seed go in; one JSON record of scores comes out.

Code shared by all tasks is here; each suite of tasks has its own sub-package.
"""
