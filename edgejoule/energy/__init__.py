"""Integrate power, attribute energy to layers: numpy only, no hardware library."""
