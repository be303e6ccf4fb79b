"""Figures of the report: inline SVG whose colours are the page's CSS variables."""
