"""The documentation: pages, and what makes more of them of the code. ``make docs`` builds the
site."""
