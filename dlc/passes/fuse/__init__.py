"""What gets memory of its own, and which of these share a kernel."""
