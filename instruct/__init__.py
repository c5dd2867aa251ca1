"""Construct instructions, judge them, and execute them. Knows the model and the data, and trains nothing itself."""
