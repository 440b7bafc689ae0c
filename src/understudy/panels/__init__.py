"""A generalist and its specialists (Hinton et al. 2015, section 5), from grouping to their page."""
