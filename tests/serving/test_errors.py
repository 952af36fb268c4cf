import pytest

from app.inference.batching import EngineBusy
from app.inference.remote import RemoteRefused, RemoteUnavailable
from app.inference.sampling import PromptTooLong, SamplingInvalid
from app.inference.shaping import SchemaUnusable
from app.serving.errors import as_api_error


@pytest.mark.parametrize(
    ("error", "status", "param"),
    [
        (SchemaUnusable("schema", "no such type"), 400, "response_format"),
        (SamplingInvalid("top_p", "give less"), 400, "top_p"),
        (RemoteRefused("http://one refuses the request: 400: no"), 400, None),
        (PromptTooLong.of(90, 32, 64), 400, "messages"),
        (EngineBusy("256 requests wait already"), 503, None),
        (RemoteUnavailable("no server answered"), 503, None),
    ],
)
def test_what_an_engine_says_reaches_the_client_with_its_status(error, status, param):
    given = as_api_error(error)
    assert (given.status, given.param) == (status, param)
    assert str(given).startswith(str(error))
