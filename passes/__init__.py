"""What is done to a program: one file a pass. The list is in recipes.py."""
