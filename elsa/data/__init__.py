"""Where text comes from (`sources`) and how it becomes token windows (`windows`)."""
