"""What a pre-trained model predicts without fine-tuning: filled blanks, continued texts, and the summary of a run."""
