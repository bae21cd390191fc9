"""Web: the doors and windows of the house. It reads vital signs and collaborators that are handed in."""
