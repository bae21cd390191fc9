"""Dev: the same house with stores of its own, for people who try it and for tests. Never in production."""
