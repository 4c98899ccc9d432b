"""AgentService: runs in, answers out."""

from waymesh.agent.v1.agent_service_pb2_grpc import AgentServiceServicer


class AgentServicer(AgentServiceServicer):
    """Translates; see protos/waymesh/agent/v1/agent_service.proto for what each RPC promises."""
