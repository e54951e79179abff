"""The data path: text files, remote files, hub datasets or token ids go in; blocks of one length in training order come
out.

In between are the tokenizer, trained here or loaded, and the prepared tokens on disk, which serve any sequence length.
"""
