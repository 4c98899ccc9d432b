"""A server that speaks OpenAI's chat completions and fails as it is told: `python -m tests.mock_openai`.

`MockOpenAI` serves in the loop of a test (fixture `mock_openai`) or as a process of its own. What it answers
is a `Script`: by a function of the request, by the header `x-mock-script`, by the scripts queued for the
model, or by the model's own name where that is `fault:<name>`, such as `fault:rate_limited`.
"""

from tests.mock_openai.script import Call, Fault, Script
from tests.mock_openai.server import MockOpenAI, Seen

__all__ = ["Call", "Fault", "MockOpenAI", "Script", "Seen"]
