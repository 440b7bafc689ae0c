"""Hybrid speech recognition: features, forced alignment, and decoding of a network's state posteriors."""
