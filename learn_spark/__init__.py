"""Aligned LLM embeddings for recommendation, as Spark batch jobs."""

__version__ = "0.2.0"  # setup.py reads it here
