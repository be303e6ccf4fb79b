"""Cluster: Ray runs the trials of a search. The study stays with the command."""
