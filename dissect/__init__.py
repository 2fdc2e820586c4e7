"""Find out which parts of a session-based recommender carry its predictions."""

__version__ = "0.1.0"
