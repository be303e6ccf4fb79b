"""What attar does, one verb a file; ``attar.stages.slots`` says in which order. What serves a
bundle loads none of the others."""
