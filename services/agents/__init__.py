"""Agents: tasks in words, answered by engines and, where there is one, a model."""
