"""Predictions of pre-trained models without fine-tuning: a model and text go in; filled blanks, generated text and the
summary of a run come out."""
