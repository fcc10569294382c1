"""Figures for papers: SVG and PNG, drawn by matplotlib."""
