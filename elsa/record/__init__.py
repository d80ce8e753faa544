"""What a run was: the keys that name it (`key`), and the record that it leaves (`record`, `environment`)."""
