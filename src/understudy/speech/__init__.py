"""Speech: features, alignment, and words from a network's posteriors."""
