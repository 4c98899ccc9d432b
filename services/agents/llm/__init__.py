"""Language models: one call that tries what there is, keeps to time and budget, and says what it took."""

from services.agents.llm.config import OPENAI_URL, ModelsConfig
from services.agents.llm.kinds import ErrorKind
from services.agents.llm.ledger import Hold, Ledger
from services.agents.llm.models import RESERVE_S, LanguageModels
from services.agents.llm.prices import Price, Prices
from services.agents.llm.reply import Attempt, ModelFailure, ModelReply, Tokens, ToolUse
from services.agents.llm.request import ModelRequest, ModelSettings

__all__ = [
    "OPENAI_URL", "RESERVE_S", "Attempt", "ErrorKind", "Hold", "LanguageModels", "Ledger", "ModelFailure",
    "ModelReply", "ModelRequest", "ModelSettings", "ModelsConfig", "Price", "Prices", "Tokens", "ToolUse",
]  # fmt: skip
