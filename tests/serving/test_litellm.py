"""LiteLLM, which other gateways and frameworks put in between, works against the application."""

import openai
import pytest
from starlette.testclient import TestClient

from app.serving.http import create_app
from tests.serving.asked import QUESTION
from tests.serving.conftest import make_release


@pytest.fixture
def litellm(monkeypatch):
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # nothing is fetched
    return pytest.importorskip("litellm")


def test_litellm_asks_streams_and_embeds(litellm, make_gateway, releases):
    releases["assistant@production"] = make_release()
    with TestClient(create_app(make_gateway())) as http:
        client = openai.OpenAI(base_url="http://testserver/v1", api_key="-", http_client=http, max_retries=0)
        asked = {"client": client, "api_key": "-", "api_base": "http://testserver/v1"}
        model = "openai/small"
        whole = litellm.completion(model=model, messages=QUESTION, temperature=0.2, max_tokens=9, stop=["x"], **asked)
        parts = litellm.completion(model=model, messages=QUESTION, stream=True, **asked)
        text = "".join(part.choices[0].delta.content or "" for part in parts)
        with pytest.raises(litellm.NotFoundError, match="ask for one of"):
            litellm.completion(model="openai/gpt-9", messages=QUESTION, **asked)
        with pytest.raises(litellm.BadRequestError, match="presence_penalty"):
            litellm.completion(model=model, messages=QUESTION, presence_penalty=1.0, **asked)
    assert (whole.choices[0].message.content, whole.usage.total_tokens, text) == ("2000 euros", 14, "2000 euros")
