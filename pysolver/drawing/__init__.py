"""Nets to look at: a graph laid out and painted, and a table of layers."""
