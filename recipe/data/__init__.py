"""The data path: text files, remote files, hub datasets or token ids go in; blocks of one length in the order of a run
come out.

On the way lie the tokenizer, which is trained here or loaded, and the prepared tokens on disk, which serve any sequence
length.
"""
