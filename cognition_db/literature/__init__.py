"""What papers say about mixing tokens efficiently: insights with their sources, and retrieval without a network."""

from cognition_db.literature.loading import load_insights
from cognition_db.literature.retrieval import retrieve, symptom

__all__ = ["load_insights", "retrieve", "symptom"]
