"""What a run was: the keys that name it (`key`), and the record that it leaves (`record`, `environment`)."""

STATES = ("finished", "pruned", "running", "unfinished", "broken")  # of a run as its folder says
