"""Fine-tuning: one checkpoint, one task and one seed go in; one JSON record of scores comes out.

What all tasks share lies here; what belongs to one suite lies in its sub-package.
"""
