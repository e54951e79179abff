"""Extractive question answering on SQuAD: questions, windows, answer spans and official scores."""
