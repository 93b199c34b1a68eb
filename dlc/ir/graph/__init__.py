"""The Graph IR: nodes, the table of operations, builders, text, verifier and interpreter."""
