"""Schedules measured on the machine, where somebody asks for it."""
