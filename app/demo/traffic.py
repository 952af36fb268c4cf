"""Users of the demo: they ask questions through the official OpenAI client, several at a time.

Guarantees: every question is counted as answered or failed; a failure keeps its reason. Not guaranteed: the order in
which the gateway sees questions, since users do not wait for each other.
"""

import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from app.core.progress import Progress, progress
from app.core.statistics import Interval, bootstrap_mean
from app.demo.questions import Question

NUM_USERS = 4
TIMEOUT_S = 90.0
MAX_RETRIES = 8


@dataclass(frozen=True)
class Reply:
    """What one user got."""

    question: str
    expected: Sequence[str]
    text: str = ""
    model: str = ""
    request_id: str = ""
    citations: Sequence[Any] = ()
    error: str = ""

    @property
    def answered(self) -> bool:
        """Whether the text holds one of the accepted answers."""
        return any(answer.casefold() in self.text.casefold() for answer in self.expected)


@dataclass
class Traffic:
    """Requests of one phase, and what became of them."""

    replies: list[Reply] = field(default_factory=list)

    @property
    def sent(self) -> int:
        """Number of questions asked."""
        return len(self.replies)

    @property
    def failed(self) -> list[Reply]:
        """Questions that got an error in place of an answer."""
        return [reply for reply in self.replies if reply.error]

    def answered_share(self) -> Interval | None:
        """Share of the questions with a known answer whose reply holds it; None when no question has one."""
        known = [float(reply.answered) for reply in self.replies if reply.expected]
        return bootstrap_mean(known) if known else None


class Users:
    """Sends questions to a gateway. ``url`` is the gateway's address without ``/v1``."""

    def __init__(self, url: str, *, api_key: str = "demo") -> None:
        from openai import OpenAI

        self._client = OpenAI(base_url=f"{url}/v1", api_key=api_key, timeout=TIMEOUT_S, max_retries=MAX_RETRIES)

    def ask_all(self, name: str, questions: Iterable[Question]) -> Traffic:
        """Ask every question once, ``NUM_USERS`` at a time, with a progress bar."""
        asked = list(questions)
        with progress(name, len(asked)) as bar, ThreadPoolExecutor(NUM_USERS) as pool:
            return Traffic([_counted(future, bar) for future in [pool.submit(self.ask, each) for each in asked]])

    def ask(self, question: Question) -> Reply:
        """Ask one question of the routed model."""
        from openai import OpenAIError

        text, expected = question["question"], question["answers"]
        try:
            raw = self._client.chat.completions.with_raw_response.create(
                model="signalbox", messages=[{"role": "user", "content": text}]
            )
        except OpenAIError as error:
            return Reply(text, expected, error=f"{type(error).__name__}: {error}")
        completion: Any = raw.parse()
        return Reply(
            question=text,
            expected=expected,
            text=completion.choices[0].message.content or "",
            model=completion.model,
            request_id=raw.headers.get("x-request-id", ""),
            citations=getattr(completion, "citations", None) or (),
        )


class SteadyTraffic:
    """One user who keeps asking in the background, to see whether a change of production costs anybody an answer."""

    def __init__(self, users: Users, questions: Sequence[Question], *, pause_s: float = 0.5) -> None:
        self.traffic = Traffic()
        self._users, self._questions, self._pause_s = users, questions, pause_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="steady-traffic", daemon=True)

    def __enter__(self) -> "SteadyTraffic":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._pause_s):
            question = self._questions[self.traffic.sent % len(self._questions)]
            self.traffic.replies.append(self._users.ask(question))


def _counted(future: "Future[Reply]", bar: Progress) -> Reply:
    reply = future.result()
    bar.advance()
    return reply
