import pickle

import pytest

from app.inference.sampling import Sampling, SamplingInvalid


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("max_new_tokens", 1, 0),
        ("temperature", 2.0, 2.1),
        ("temperature", 0.5, -0.1),
        ("temperature", 1.0, float("nan")),
        ("top_p", 0.01, 0.0),
        ("top_p", 1.0, 1.01),
        ("seed", -(2**63), 2**63),
        ("stop", ("\n", "END"), ("\n", "")),
        ("stop", ("a",) * 16, ("a",) * 17),
        ("num_logprobs", 20, 21),
        ("num_logprobs", -1, -2),
    ],
)
def test_a_value_out_of_range_is_named(name, good, bad):
    Sampling(**{name: good})
    with pytest.raises(SamplingInvalid, match=f"^{name}: give ") as raised:
        Sampling(**{name: bad})
    again = pickle.loads(pickle.dumps(raised.value))
    assert (again.name, str(again)) == (name, str(raised.value))


def test_what_is_asked_for_can_be_left_out():
    assert Sampling(max_new_tokens=7).asked == ()
    sampling = Sampling(max_new_tokens=7, temperature=0.5, stop=("\n",), num_logprobs=0, schema={"type": "object"})
    assert sampling.asked == ("temperature", "stop", "num_logprobs", "schema")
    assert sampling.without(["schema", "stop"]).asked == ("temperature", "num_logprobs")
    assert sampling.without(sampling.asked) == Sampling(max_new_tokens=7)
    assert len({sampling, sampling.without([]), sampling.without(["stop"])}) == 2
