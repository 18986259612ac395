"""Helpers of the course: do shortcuts survive transfer, and does task interpolation keep them out?"""

__version__ = "0.1.0"
