"""GLUE and other classification or regression tasks: their rows, labels, metrics and fine-tuning."""
