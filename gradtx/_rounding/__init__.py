"""How a 16-bit parameter is kept: the last stage of a chain decides which value it becomes."""
