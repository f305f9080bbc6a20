"""aquatint."""
