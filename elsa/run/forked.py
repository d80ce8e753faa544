"""What the process that the runs of a sweep fork from imports: all that each of them would."""

from elsa.run.start import load, quiet

quiet("prune")
load("prune")
