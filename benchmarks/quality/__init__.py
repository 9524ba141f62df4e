"""How near results are to the truth, how steady they are, and how natural they look."""
