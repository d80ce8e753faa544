"""`python -m elsa`, as torchrun and srun start it."""

from elsa.run.cli import main

if __name__ == "__main__":
    main()
