"""The paper's engine: penalty schedules, the merged z/u state, the training loop."""
