"""Synthetic heads whose truth is known."""
