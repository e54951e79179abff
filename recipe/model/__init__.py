"""The model: a JSON config goes in; a transformers model comes out, checked against tokenizer and sequence length.

Here too: training forwards that project predicted positions alone, whole checkpoints, and what a model costs in FLOPs,
memory and traffic.
"""
