"""What is different between two versions, and what is only said in other words."""

from typing import Any

from google.protobuf.struct_pb2 import Struct
from hypothesis import given, settings
from hypothesis import strategies as st
from waymesh.agent.v1.definition_pb2 import AgentSpec

from services.agents.registry import derived_id, diff, normalised, same
from services.mesh.json_codec import to_dict


def changed(before: AgentSpec, after: AgentSpec) -> dict[str, tuple[Any, Any]]:
    """Before and after by field, None where there is no value."""
    return {
        change["field"]: (change.get("before"), change.get("after"))
        for change in (to_dict(one) for one in diff(before, after))
    }


def test_each_field_is_told_by_its_path_with_its_values() -> None:
    before = AgentSpec(name="a", config={"model": {"temperature": 0.3, "fallback_models": ["x"]}})
    after = AgentSpec(
        name="b",
        config={"model": {"fallback_models": ["x", "y"]}, "limits": {"max_steps": 3}},
        instructions={"system": "Be brief."},
    )
    assert changed(before, after) == {
        "name": ("a", "b"),
        "config.model.fallback_models": (["x"], ["x", "y"]),
        "config.model.temperature": (0.3, None),
        "config.limits.max_steps": (None, 3),
        "instructions.system": (None, "Be brief."),
    }


def test_fields_come_in_the_order_of_the_contract() -> None:
    after = AgentSpec(
        name="a",
        description="d",
        config={"model": {"model": "m"}, "limits": {"max_steps": 1}},
        instructions={"system": "s"},
        capabilities=[{"capability_id": "weather"}],
        output_schema={"type": "object"},
    )
    assert [change.field for change in diff(AgentSpec(), after)] == [
        "name",
        "description",
        "config.model.model",
        "config.limits.max_steps",
        "instructions.system",
        "capabilities.weather",
        "output_schema",
    ]


def test_a_value_of_zero_is_a_value() -> None:
    unset, zero = AgentSpec(), AgentSpec(config={"model": {"temperature": 0.0}})
    assert changed(unset, zero) == {"config.model.temperature": (None, 0)}


def test_a_tool_is_told_by_its_name() -> None:
    before = AgentSpec(
        capabilities=[{"capability_id": "gone"}, {"capability_id": "kept", "config": {"a": 1}}]
    )
    after = AgentSpec(capabilities=[{"capability_id": "new"}, {"capability_id": "kept", "config": {"a": 2}}])
    assert changed(before, after) == {
        "capabilities.gone": ({}, None),
        "capabilities.kept.config": ({"a": 1}, {"a": 2}),
        "capabilities.new": (None, {}),
    }
    bare = AgentSpec(capabilities=[{"capability_id": "kept"}, {"capability_id": "gone"}])
    assert changed(before, bare) == {"capabilities.kept.config": ({"a": 1}, None)}


def test_true_is_not_one_and_one_is_not_text() -> None:
    values = [{"default": value} for value in (True, 1, "1", None, [1], {"a": 1})]
    specs = [AgentSpec(output_schema=value) for value in values]
    for place, one in enumerate(specs):
        for other in specs[place + 1 :]:
            assert not same(one, other)


def test_what_is_there_but_empty_is_not_there() -> None:
    wordy = AgentSpec(name="a", capabilities=[{"capability_id": "weather"}])
    wordy.config.model.SetInParent()
    wordy.config.limits.SetInParent()
    wordy.instructions.SetInParent()
    wordy.output_schema.SetInParent()
    wordy.capabilities[0].config.SetInParent()
    assert same(wordy, AgentSpec(name="a", capabilities=[{"capability_id": "weather"}]))
    assert not normalised(wordy).HasField("config")


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=2),
    max_leaves=4,
)


def struct(values: dict[str, Any]) -> Struct:
    made = Struct()
    made.update(values)
    return made


@st.composite
def specs(draw: st.DrawFn) -> AgentSpec:
    spec = AgentSpec(name=draw(st.sampled_from("ab")), description=draw(st.sampled_from(["", "x"])))
    if draw(st.booleans()):
        spec.config.model.temperature = draw(st.sampled_from([0.0, 1.0]))
    spec.config.model.fallback_models.extend(draw(st.lists(st.sampled_from("xy"), max_size=2)))
    if draw(st.booleans()):
        spec.config.limits.max_steps = draw(st.integers(1, 2))
    for tool in draw(st.lists(st.sampled_from(["t", "u", "v"]), unique=True)):
        spec.capabilities.add(
            capability_id=tool, config=draw(st.sampled_from([None, struct({"timeout_s": 1})]))
        )
    if draw(st.booleans()):
        spec.output_schema.CopyFrom(struct(draw(st.dictionaries(st.sampled_from("ab"), plain, max_size=2))))
    return spec


@settings(deadline=None)
@given(one=specs(), other=specs())
def test_nothing_differs_exactly_where_both_have_one_normal_form(one: AgentSpec, other: AgentSpec) -> None:
    assert same(one, other) == (normalised(one) == normalised(other))
    assert same(one, one)
    assert [change.field for change in diff(one, other)] == [change.field for change in diff(other, one)]
    for there, back in zip(diff(one, other), diff(other, one), strict=True):
        assert (there.before, there.after) == (back.after, back.before)


@settings(deadline=None)
@given(spec=specs())
def test_the_normal_form_stays_and_means_the_same(spec: AgentSpec) -> None:
    form = normalised(spec)
    assert normalised(form) == form
    assert not diff(form, spec)
    assert [one.capability_id for one in form.capabilities] == sorted(
        one.capability_id for one in spec.capabilities
    )


def test_made_identities_differ_by_tenant_name_and_number() -> None:
    made = [derived_id(*parts) for parts in (("a", "b", 0), ("a", "b", 1), ("a", "c", 0), ("b", "b", 0))]
    assert len(set(made)) == 4
    assert made[0] == derived_id("a", "b", 0)
