"""Methods: one file, one class, one YAML in `conf/method` each. How to add one: docs/guides/add_a_method.md."""
