"""What a program is, and how it gets in, is checked, and gets out."""
