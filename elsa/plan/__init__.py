"""What a run will need, worked out from its config before anything is loaded."""
