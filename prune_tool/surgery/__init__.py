"""Exact surgery: capture a network as a graph, cut it to the neurons that are kept, count what is left."""
