"""What each run_*.py does once its flags are read, which it alone imports then: the Trainer takes seconds, and neither
a help page nor a mistake in the flags waits for it. In go the parsed arguments, out comes the exit code."""
