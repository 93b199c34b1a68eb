"""What gets memory of its own, and which of these share a kernel."""

from dlc.passes.fuse import attention_unit  # noqa: F401  a row of the table of units
