"""Readers: one module per dataset format."""
