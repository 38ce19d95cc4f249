"""Reading and changing a running optimizer: its numbers, its parts, its state."""
