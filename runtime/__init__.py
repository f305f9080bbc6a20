"""What a program runs on: the operator set, and one file a target."""
