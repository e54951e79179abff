"""Named entities: a label for each word of a sentence. Enters a checkpoint and labelled sentences; leaves precision,
recall and F1 over whole entities."""
