"""Training of a whole model on its own loss, under any constraint: loop, loss, optimiser, budget, precision."""
