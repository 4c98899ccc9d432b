"""What was done and what came of it: recorded around every task, durable at once."""

from services.mesh.feedback.dispatcher import (
    Action,
    Dispatcher,
    DispatchResult,
    WorkflowResult,
    create_dispatcher,
)
from services.mesh.feedback.pipeline import FeedbackPipeline
from services.mesh.feedback.tasks import recorded

__all__ = [
    "Action",
    "DispatchResult",
    "Dispatcher",
    "FeedbackPipeline",
    "WorkflowResult",
    "create_dispatcher",
    "recorded",
]
