"""What is shown of results: records of fine-tuning and logs of training go in.

Tables, curves, model cards, W&B charts and a page come out.
"""
