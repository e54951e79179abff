"""TPUs, through torch_xla: how the ranks that torchrun started become one group."""

import os

import torch


def join_xla_ranks() -> None:
    """Joins the ranks of a launcher where PJRT_DEVICE says that they compute through XLA; elsewhere nothing."""
    if "PJRT_DEVICE" in os.environ and "TORCHELASTIC_RUN_ID" in os.environ:
        import torch_xla.distributed.xla_backend  # noqa: F401 (registers the backend)

        torch.distributed.init_process_group("xla", init_method="xla://")
