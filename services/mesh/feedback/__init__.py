"""What was done and what came of it: recorded around every task, durable at once."""

from services.mesh.feedback.actions import Action, DispatchResult
from services.mesh.feedback.agents import Partial
from services.mesh.feedback.dispatcher import Dispatcher, create_dispatcher
from services.mesh.feedback.hooks import Hooks
from services.mesh.feedback.pipeline import FeedbackPipeline
from services.mesh.feedback.receipts import Receipt
from services.mesh.feedback.tasks import recorded
from services.mesh.feedback.workflow import WorkflowResult

__all__ = [
    "Action",
    "DispatchResult",
    "Dispatcher",
    "FeedbackPipeline",
    "Hooks",
    "Partial",
    "Receipt",
    "WorkflowResult",
    "create_dispatcher",
    "recorded",
]
