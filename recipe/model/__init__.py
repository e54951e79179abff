"""The model: a JSON config goes in; a transformers model comes out, validated against tokenizer and sequence length.

Also here: forward passes for training that compute logits at predicted positions only, atomic checkpoints, and
estimates of FLOPs, memory and network traffic.
"""
