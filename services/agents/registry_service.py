"""AgentRegistryService: agents as data."""

from waymesh.agent.v1.agent_registry_service_pb2_grpc import AgentRegistryServiceServicer


class RegistryServicer(AgentRegistryServiceServicer):
    """Translates; see protos/waymesh/agent/v1/agent_registry_service.proto for what each RPC promises."""
