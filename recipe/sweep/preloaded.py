"""What is imported before workers are forked. The garbage collector leaves it alone from then on: it looks through half
a million objects in a quarter of a second, and transformers calls it once per job."""

from recipe.system.processes import end_with_parent

end_with_parent()  # at its imports, it doesn't notice in another way that the sweep has ended

import gc  # noqa: E402
from contextlib import redirect_stdout  # noqa: E402

with redirect_stdout(None):  # what packages say when they are imported, the sweep says
    import recipe.finetune.glue.finetuning
    import recipe.sweep.jobs  # noqa: F401

gc.collect()
gc.freeze()
