"""Saved models at work: what they say, and how fast."""
