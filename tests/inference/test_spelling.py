"""Text from tokens, with a tokenizer whose tokens are bytes."""

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from app.inference.sampling import Sampling
from app.inference.spelling import Speller, Vocabulary


def vocabulary(*, thinks):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: place for place, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    tokenizer.add_tokens([AddedToken("</think>", special=False)] if thinks else [])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")
    return Vocabulary(fast, end_tokens=[fast.eos_token_id])


PLAIN, THINKER = vocabulary(thinks=False), vocabulary(thinks=True)


def spelled(text, *, words=PLAIN, stop=(), every=1):
    """Pieces of a text whose tokens come one by one, what is said of it in the end, and whether it was stopped."""
    speller, pieces = Speller(words, Sampling(stop=stop)), []
    for number, token in enumerate(words.tokenizer.encode(text, add_special_tokens=False)):
        speller.add(token, words.spell(token, -1.0))
        pieces += [speller.piece()] if number % every == 0 else []
        if speller.stopped:
            break
    pieces.append(speller.rest())
    text, tokens = speller.whole
    assert "".join(piece for piece, _ in pieces) == text
    assert sum((part for _, part in pieces), ()) == tokens
    return [piece for piece, _ in pieces], b"".join(each.raw for each in tokens), speller.stopped


@pytest.mark.parametrize(
    ("text", "stop", "said", "stopped"),
    [
        ("  two words \n", (), "two words", False),
        ("größer als 3 €", (), "größer als 3 €", False),
        ("one\ntwo", ("\n",), "one", True),
        ("one END two", ("END", "two"), "one", True),
        ("one two", ("two", "one two"), "", True),
        ("aab", ("ab",), "a", True),
        ("\nUser: hi", ("\nUser:",), "", True),
        (" the cat", (" the cat",), "", True),
        ("one EN", ("END",), "one EN", False),
        ("", ("a",), "", False),
        ("🙂 yes", ("🙂 y",), "", True),
    ],
)
@pytest.mark.parametrize("every", [1, 2, 5, 100])
def test_the_pieces_are_the_whole_up_to_a_stop(text, stop, said, stopped, every):
    pieces, _, ended = spelled(text, stop=stop, every=every)
    assert ("".join(pieces), ended) == (said, stopped)


def test_no_piece_breaks_a_character_or_tells_the_beginning_of_a_stop():
    pieces, raw, _ = spelled("é ENough END", stop=("END",))
    assert raw == "é ENough END".encode()
    assert [piece for piece in pieces if piece] == ["é", " ENo", "u", "g", "h"]
    assert not spelled("half \ud83d".encode("utf-8", "replace").decode())[2]


def test_a_character_that_never_ends_is_said_at_the_end():
    words = PLAIN
    speller = Speller(words, Sampling())
    for token in words.tokenizer.encode("aé", add_special_tokens=False)[:-1]:
        speller.add(token, None)
    assert (speller.piece()[0], speller.rest()[0], speller.whole[0]) == ("a", "\ufffd", "a\ufffd")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<think>is it? yes</think>\n\nIt is.", "It is."),
        ("no end of thinking", "no end of thinking"),
        ("a</think>b</think> c", "b</think> c"),
    ],
)
def test_thoughts_are_no_part_of_the_answer(text, said):
    pieces, raw, _ = spelled(text, words=THINKER)
    assert "".join(pieces) == said
    assert raw.decode().strip() == said
    assert "".join(spelled("stop</think>go stop", words=THINKER, stop=("stop",))[0]) == "go"
    assert "</think>" in "".join(spelled(text, words=PLAIN)[0]) or "</think>" not in text


def test_an_answer_whose_beginning_reads_otherwise_as_a_whole_keeps_its_end():
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)} | {"a": 256, "\u2581b": 257, "</s>": 258}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")
    speller, said = Speller(Vocabulary(fast, end_tokens=[258]), Sampling()), ""
    for place, token in enumerate([*"🙂".encode(), 0xC9, 256, 257, 256, 257]):
        speller.add(token, None)
        said += speller.piece()[0] if place == 3 else ""
    assert said == "🙂"
    assert (said + speller.rest()[0]).endswith("a ba b")
