"""Conversations: what a model reads of them, and what of them is searched."""

import pytest

from app.inference.conversation import Conversation, as_one_text


def turns(*said):
    return tuple({"role": role, "content": content} for role, content in said)


ASKED = turns(("user", "What is the fee?"), ("assistant", "40 euros."), ("user", "And for students?"))


def test_a_question_alone_is_its_text_and_nothing_else():
    alone = Conversation.of("What is the fee?")
    assert (alone.prompt(), alone.searched, alone.question) == ("What is the fee?",) * 3


def test_all_turns_reach_the_model_behind_one_system_turn():
    own = turns(("system", "Answer in German."), ("system", "No jokes."))
    given = Conversation((*own, *ASKED)).prompt("Be brief.")
    assert given == [*turns(("system", "Be brief.\n\nAnswer in German.\n\nNo jokes.")), *ASKED]
    assert Conversation(ASKED).prompt() == list(ASKED)
    late = turns(("user", "Hello"), ("system", "Be kind."), ("user", "What is the fee?"))
    assert Conversation(late).prompt("Be brief.") == [*turns(("system", "Be brief.")), *late]


@pytest.mark.parametrize(
    ("question", "leans"),
    [
        ("And for students?", True),
        ("When must it be paid back?", True),
        ("Opening hours?", True),
        ("Who decides about them", True),
        ("How many days of parental leave does an employee have?", False),
        ("Which branch opens on Sundays?", False),
    ],
)
def test_a_question_that_leans_on_the_one_before_is_searched_with_it(question, leans):
    asked = Conversation((*ASKED[:2], {"role": "user", "content": question}))
    assert asked.searched == (f"{question}\nWhat is the fee?" if leans else question)
    assert asked.question == question


def test_turns_without_a_place_are_one_text_that_says_who_spoke():
    assert as_one_text(ASKED) == "user: What is the fee?\n\nassistant: 40 euros.\n\nuser: And for students?"
    assert as_one_text(turns(("system", "Be brief."), ("user", "Why?"))) == "Be brief.\n\nWhy?"


def test_names_and_calls_count_as_what_a_model_reads():
    call = {"id": "1", "type": "function", "function": {"name": "fee", "arguments": '{"for": "\u00e9"}'}}
    called = {"role": "assistant", "content": "", "tool_calls": [call]}
    given = {"role": "tool", "content": "40", "tool_call_id": "1"}
    asked = Conversation(({"role": "user", "content": "fee?", "name": "jane"}, called, given))
    assert asked.num_chars == len('fee?jane1fee{"for": "\u00e9"}401')
    assert asked.num_bytes == asked.num_chars + 1
