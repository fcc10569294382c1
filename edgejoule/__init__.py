"""Where do the joules of a neural network go: time and energy of every layer, with error bars."""

__version__ = "0.1.0"
