"""Answers without a model: what engines said, in words. Every number is an engine's, at most rounded."""

from services.agents.engines.answer import answer
from services.agents.engines.eta import explain_eta
from services.agents.engines.plan import critique
from services.agents.engines.route import explain_route

__all__ = ["answer", "critique", "explain_eta", "explain_route"]
