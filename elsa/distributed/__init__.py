"""Several processes at work on one run. The only room that knows torch.distributed."""
