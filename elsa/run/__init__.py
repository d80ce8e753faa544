"""The command line: one program, a Hydra main per subcommand."""
