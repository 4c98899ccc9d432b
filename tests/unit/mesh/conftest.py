"""What tests of agents and of their workflows share."""

from pathlib import Path

import pytest
from recorder_rig import idle_pipeline

from services.mesh.feedback import Dispatcher, FeedbackPipeline, create_dispatcher


@pytest.fixture
def pipeline(tmp_path: Path) -> FeedbackPipeline:
    """It holds the outcomes of what is dispatched."""
    return idle_pipeline(tmp_path)


@pytest.fixture
def dispatcher(pipeline: FeedbackPipeline) -> Dispatcher:
    """Of agents whose outcomes the pipeline holds."""
    return create_dispatcher(pipeline)
