"""The Loop IR: expressions and statements, schedules as data, text, verifiers and interpreter."""

from dlc.ir.loops import text  # noqa: F401  how expressions print
