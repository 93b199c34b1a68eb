"""Derivatives and batching as transforms of the Graph IR: vjp, jvp, vmap and their rules."""

from dlc.passes.autodiff import attention_rule, scan_rule  # noqa: F401  rows of the table of vjp rules
