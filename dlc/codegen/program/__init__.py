"""From a prepared graph to a Program: launches, their order, updates in place, the memory plan."""
