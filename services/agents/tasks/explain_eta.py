"""explain_eta: eta predicts; a model or a template says why."""

from typing import Final

from waymesh.agent.v1.task_pb2 import AgentEta, ExplainEtaRequest, ExplainEtaResponse
from waymesh.eta.v1.eta_pb2 import EtaPrediction
from waymesh.eta.v1.eta_service_pb2 import PredictEtaRequest

from services.agents import engines
from services.agents.claims import of_arrival
from services.agents.ladder import worse
from services.agents.loop import Brief
from services.agents.tasks.context import Context, EngineAway
from services.agents.tools import Scope

NAME: Final = "explain_eta"
AGENT: Final = "eta"
_ASK: Final = "Explain to the dispatcher why this delivery takes that long."
# Wording a prediction takes no call.
_WORDING_S: Final = 0.05
_AWAY: Final = (
    "No prediction can be given: the engine that predicts did not answer. Please ask again in a moment."
)


def scope_of(request: ExplainEtaRequest, scope: Scope) -> None:
    """What the query names may be looked at."""
    query = request.query
    scope.order_ids.update(one for one in (query.order_id, query.order.order_id) if one)
    scope.driver_ids.update(one for one in (query.driver_id,) if one)
    scope.words = request.question


async def run(request: ExplainEtaRequest, context: Context) -> ExplainEtaResponse:
    """Raises the caller's faults as eta told them: an unknown order, a query that breaks a rule."""
    journal = context.journal
    try:
        reply = await context.engine(
            "eta.predict_eta", lambda: context.peers.eta.PredictEta(PredictEtaRequest(query=request.query))
        )
    except EngineAway as away:
        return ExplainEtaResponse(
            run_id=context.run_id, explanation=_AWAY, usage=journal.usage, degradation=away.degradation
        )
    prediction = reply.prediction
    brief = Brief(
        NAME,
        request.question or _ASK,
        {"prediction": prediction},
        words_count=False,
        claims=of_arrival(prediction),
    )

    async def template() -> str:
        return engines.explain_eta(prediction, request.question)

    words = await context.words(brief, template, engine_s=_WORDING_S)
    engine = reply.degradation if reply.HasField("degradation") else None
    return ExplainEtaResponse(
        run_id=context.run_id,
        explanation=words.text,
        eta=agent_eta(prediction),
        prediction=prediction,
        usage=journal.usage,
        degradation=worse(engine, words.degradation),
    )


def agent_eta(prediction: EtaPrediction) -> AgentEta:
    """A prediction in the shape in which agents give it."""
    pickup = prediction.pickup_eta_minutes if prediction.HasField("pickup_eta_minutes") else None
    return AgentEta(
        order_id=prediction.order_id,
        pickup_eta_minutes=pickup,
        delivery_eta_minutes=prediction.delivery_eta_minutes,
        confidence_score=prediction.confidence,
        factors=prediction.factors,
    )
