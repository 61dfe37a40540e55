"""Plumbline's Django project: settings, accounts, and the commands that run it all on one machine."""
