"""Readers, stores, normalisation and the input pipeline."""
