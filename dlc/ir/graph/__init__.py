"""The Graph IR: nodes, the table of operations, builders, text, verifier and interpreter."""

from dlc.ir.graph import attention, call, ops, text  # noqa: F401  rows of the table; how nodes and graphs print
