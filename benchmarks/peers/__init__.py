"""Ways to run a model on a CPU, ours and others', each in a process and an environment of its own."""
