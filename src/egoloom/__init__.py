"""First-person video that trains on every sensor and ships on RGB alone.

The package import stays light: heavy libraries load inside the parts that need them.
"""

__version__ = "0.1.0"
