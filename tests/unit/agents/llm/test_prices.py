"""What calls cost, to the billionth of a dollar."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.agents.llm import Price, Prices, Tokens


def test_a_call_costs_what_the_list_says():
    # 1,000 tokens in at $2.50 and 100 out at $10 per million: $0.0025 + $0.001.
    assert Prices.built_in().cost("gpt-4o", Tokens(1000, 100)) == 3_500_000


def test_a_dated_name_costs_what_its_model_costs_unless_the_list_has_it():
    prices = Prices.built_in()
    assert prices.price("gpt-4.1-mini-2025-04-14") == prices.price("gpt-4.1-mini")
    assert prices.price("gpt-4o-2024-05-13") != prices.price("gpt-4o")


def test_own_prices_go_before_those_of_the_list():
    prices = Prices.built_in({"gpt-4o": (1.0, 2.0), "llama": (0.0, 0.0)})
    assert prices.price("gpt-4o") == Price.per_million(1.0, 2.0)
    assert prices.cost("llama", Tokens(10**6, 10**6)) == 0
    assert prices.price("llama") is not None


def test_a_model_that_is_not_listed_costs_nothing_and_is_known_to_be_unknown():
    prices = Prices.built_in()
    assert prices.price("nobody-knows") is None
    assert prices.cost("nobody-knows", Tokens(1000, 1000)) == 0


@given(usd=st.integers(0, 10**6), given_=st.integers(0, 10**9), made=st.integers(0, 10**9))
def test_no_call_is_ever_rounded_down(usd: int, given_: int, made: int):
    micro = usd / 1000  # thousandths of a dollar per million: finer than any list
    cost = Price.per_million(micro, micro).of(Tokens(given_, made))
    exact = usd * (given_ + made)
    assert exact <= cost < exact + 1


@pytest.mark.parametrize("model", ["gpt-5", "gpt-4.1-mini", "o3"])
def test_well_known_models_have_a_price(model: str):
    assert Prices.built_in().price(model) is not None
