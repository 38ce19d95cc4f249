"""The rows of the zoo, a family a file."""
