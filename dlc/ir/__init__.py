"""The ground floor: types, the Graph IR, the Loop IR, their printers, parsers, verifiers and interpreters."""
