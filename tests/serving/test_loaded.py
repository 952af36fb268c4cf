import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.serving.loaded import Loaded


def test_the_least_recently_used_goes():
    calls = []
    loaded = Loaded(lambda digest: calls.append(digest) or digest.upper(), limit=2)
    assert [loaded.get(each) for each in "abacab"] == list("ABACAB")
    assert calls == ["a", "b", "c", "b"]
    assert len(loaded) == 2


def test_many_threads_load_once():
    calls = []
    loaded = Loaded(lambda digest: (time.sleep(0.05), calls.append(digest), object())[2], limit=2)
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(loaded.get, ["a"] * 8))) == 1
    assert calls == ["a"]


def test_a_loaded_version_does_not_wait_for_one_that_loads():
    go = threading.Event()
    loaded = Loaded(lambda digest: go.wait(10) if digest == "slow" else digest, limit=2)
    loaded.get("fast")
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(loaded.get, "slow")
        assert loaded.get("fast") == "fast"
        assert not slow.done()
        go.set()


def test_a_load_that_fails_is_tried_again():
    answers = iter([ValueError("broken"), "whole"])

    def load(_):
        answer = next(answers)
        if isinstance(answer, ValueError):
            raise answer
        return answer

    loaded = Loaded(load, limit=2)
    with pytest.raises(ValueError, match="broken"):
        loaded.get("a")
    assert loaded.get("a") == "whole"
