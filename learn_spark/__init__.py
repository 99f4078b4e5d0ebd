"""Aligned LLM embeddings for recommendation, as Spark batch jobs."""

__version__ = "0.1.0"
