"""Tables for modelling, made from checked runs."""
