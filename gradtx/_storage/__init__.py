"""How a slot of the state is kept: formats as pure functions on arrays, one idea a file."""
