"""The Loop IR: expressions and statements, schedules as data, text, verifiers and interpreter."""
