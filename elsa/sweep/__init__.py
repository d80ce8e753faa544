"""Many runs at once: which there are (`manifest`), in what order (`queue`), and where (`slots`, `slurm`)."""
