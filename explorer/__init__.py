"""What a person touches: the command line, the jobs and the terminal app. Never imports torch at start-up."""
