"""The demo world: a small language of stories told on request, tastes in it, and simulated annotators.

Pure Python and numpy. Nothing here knows the web or the training engine, so both can use it.
"""
