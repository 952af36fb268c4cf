"""Tuning: what is learnt from, that it is learnt, taken up where it stood, and never for the worse."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from app.inference.bert import read_weights
from app.inference.encoder import Encoder, digest_of
from app.inference.reranker import Reranker
from app.retrieval.bank import Bank
from app.retrieval.choose import HeldOut, Reranking, average, choose_reranking, choose_share, shallowest
from app.retrieval.examples import Example, Examples, TooFewPairs, batches, negatives_of, split
from app.retrieval.finish import finish
from app.retrieval.fusion import Candidates
from app.retrieval.index import write_index
from app.retrieval.prepare import prepare
from app.retrieval.retriever_files import write_encoder as write_tuned
from app.retrieval.search import SearchIndex
from app.retrieval.settings import SearchSettings, TuneSettings
from app.retrieval.shards import Local
from app.retrieval.trainer import begin
from app.retrieval.tuning import EncoderTask, Progress, RerankerTask, Stage, make_optimizer, run_worker, train_step
from app.retrieval.tuning_plan import ENCODER, RERANKER, STATE_FILE, SUMMARY_FILE, TunePlan, read_lines
from tests.inference.tiny_bert import WORDS, write_encoder

KNOWN = [word for word in dict.fromkeys(WORDS.split()) if word.isalpha()]
TUNE = TuneSettings(held_out_share=0.25,
    encoder_epochs=3, encoder_batch=8, encoder_learning_rate=2e-3, reranker_epochs=6, reranker_learning_rate=2e-2,
    reranker_negatives=3, max_tokens=48, num_workers=1, num_checkpoints=3, rerank_depths=(4,),
)  # fmt: skip


def texts(num: int = 60) -> list[str]:
    drawn = np.random.default_rng(0)
    return [" ".join(drawn.choice(KNOWN, 6, replace=False)) for _ in range(num)]


def rows_of(given: list[str]) -> list[dict]:
    plain = {"document_id": "d", "source": "s", "title": "", "heading_path": []}
    return [plain | {"chunk_id": f"c{n}", "ordinal": n, "text": text} for n, text in enumerate(given)]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("base"), num_layers=2, scale=4)


@pytest.fixture(scope="module")
def prepared(base, tmp_path_factory):
    folder, given, encoder = tmp_path_factory.mktemp("index"), texts(), Encoder(folder=base)
    write_index(folder, encoder.encode(given), rows_of(given))
    asked = {f"what {text.split()[0]} {text.split()[3]}": {n} for n, text in enumerate(given)}
    parts = Local.open(folder)
    search = SearchIndex.of(parts, folder, dim=encoder.dim)
    return prepare(asked, search, encoder, bank=Bank.of_parts(parts), parts=parts, read=given, settings=TUNE)


def plan_of(base: Path) -> TunePlan:
    return TunePlan(name="t", base_folder=base, chunks_folder=base, settings=TUNE)


def trained(folder: Path, base: Path, prepared, *, restore_from: Path | None = None, stop_after: int = 99) -> Path:
    """Run the loop as one worker; checkpoints are kept as ``checkpoint-N``, the last one comes back."""
    kept: list[Path] = []

    def report(figures, checkpoint):
        kept.append(folder / f"checkpoint-{figures['step']}")
        checkpoint.rename(kept[-1])
        checkpoint.mkdir()
        if len(kept) == stop_after:
            raise KeyboardInterrupt

    folder.mkdir(parents=True, exist_ok=True)
    begin(folder, plan_of(base), prepared)
    run_worker(folder, rank=0, num_workers=1, restore_from=restore_from, report=report)
    return kept[-1]


@pytest.fixture(scope="module")
def last(base, prepared, tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("run") / "whole", base, prepared)


def test_the_encoders_loss_falls_and_word_vectors_stay(last: Path, base: Path):
    summary = json.loads((last / SUMMARY_FILE).read_text())
    losses = [point["loss"] for point in summary["curve"] if point["stage"] == ENCODER]
    assert np.mean(losses[-4:]) < 0.97 * np.mean(losses[:4]), losses
    tuned, before = load_file(last / f"{ENCODER}.safetensors"), read_weights(base)
    same = {name: torch.equal(value, before[name]) for name, value in tuned.items()}
    assert same["embeddings.word_embeddings.weight"]
    assert not same["encoder.layer.1.output.dense.weight"]
    lines = read_lines(last.parent)
    assert (lines[0]["event"], lines[-1]["step"]) == ("start", lines[-1]["total"])


def test_the_reranker_learns_four_questions_by_heart(base: Path, prepared):
    task = RerankerTask(plan_of(base), prepared.examples)
    stage = Stage(RERANKER, task.model, [list(prepared.examples.train[:4])] * 30, 3e-3, task.backward)
    optimizer, progress = make_optimizer(stage), Progress()
    losses = [train_step(stage, optimizer, progress, number, rank=0, num_workers=1) for number in range(30)]
    assert losses[-1] < 0.5 * losses[0], losses


def test_a_run_that_was_cut_off_ends_with_the_same_weights(last: Path, base: Path, prepared, tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "cut", base, prepared, stop_after=2)
    (kept,) = sorted((tmp_path / "cut").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))[1:]
    assert (kept / STATE_FILE).exists()
    again = trained(tmp_path / "cut", base, prepared, restore_from=kept)
    for stage in (ENCODER, RERANKER):
        assert (again / f"{stage}.safetensors").read_bytes() == (last / f"{stage}.safetensors").read_bytes()


def test_a_finished_retriever_says_what_it_is_and_is_never_below_its_base(last, base, prepared, tmp_path: Path):
    facts = finish(tmp_path / "r", last, plan_of(base), prepared)
    assert (facts["encoder"], facts["dim"]) == (digest_of(base), 32)
    assert facts["question_encoder"] == digest_of(tmp_path / "r" / "questions")
    for change in facts["held_out"].values():
        assert set(change["ndcg_at_10"]) == {"before", "after", "change"}
    assert facts["num_pairs"] + facts["num_held_out"] <= 60
    assert len(facts["train"]["encoder_loss"]) > 3
    if facts["reranker"]:
        assert Reranker(tmp_path / "r" / "reranker").digest == facts["reranker"]
        assert facts["search"]["rerank_weight"] > 0
    else:
        assert not (tmp_path / "r" / "reranker").exists()


def test_sentence_transformers_reads_the_encoder(base: Path, tmp_path: Path):
    from sentence_transformers import SentenceTransformer

    weights = {name: value for name, value in read_weights(base).items() if not name.startswith("pooler")}
    write_tuned(tmp_path / "encoder", weights, base=base)
    asked = ["annual fee of the card", "school"]
    theirs = SentenceTransformer(str(tmp_path / "encoder"), device="cpu").encode(asked)
    assert np.allclose(theirs, Encoder(folder=tmp_path / "encoder").encode(asked), atol=0.05)


def found(rows, dense, lexical=None) -> Candidates:
    given = np.array(lexical if lexical is not None else np.zeros(len(rows)), dtype=np.float32)
    return Candidates(np.array(rows), np.array(dense, dtype=np.float32), given, np.zeros(len(rows), dtype=np.float32))


@pytest.mark.parametrize(
    ("gold", "lead", "expected"),
    [
        ({2}, 1.0, (0, 4)),  # 1 is a twin of 2, 3 is empty
        ({2}, 0.2, (4,)),  # 0 leads by far: probably an answer
        ({4}, 1.0, (0, 1, 2)),
    ],
)
def test_what_answers_its_twins_and_what_leads_by_far_are_no_negatives(gold, lead, expected):
    given = ["fee of the account", "the card is lost in the office", "the card is lost in office", " ", "school"]
    how = SearchSettings(fusion="dense")
    hits = found(range(5), [0.9, 0.7, 0.6, 0.5, 0.4])
    assert negatives_of(
        hits, frozenset(gold), given, search=how, settings=TuneSettings(max_lead=lead)
    ) == expected  # fmt: skip


def test_half_of_what_is_held_out_is_about_chunks_of_its_own():
    gold = [frozenset({n, n + 1}) if n % 7 < 3 else frozenset({n - n % 7}) for n in range(200)]
    parts = split(gold, settings=TuneSettings(held_out_share=0.2))
    learnt = set().union(*(gold[place] for place in parts.train))
    apart = [not gold[place] & learnt for place in parts.held_out]
    assert 10 <= sum(apart) < len(apart)
    assert sorted(parts.train + parts.held_out) == list(range(200))
    assert 20 < len(parts.held_out) <= 40
    with pytest.raises(TooFewPairs, match="synthesize or label"):
        split([frozenset({0})] * 500, settings=TuneSettings())
    with pytest.raises(TooFewPairs):
        split(gold[:30], settings=TuneSettings())


def test_no_chunk_answers_two_of_a_batch_and_the_seed_decides_the_order():
    examples = [Example(question=f"q{n}", gold=(n % 9, 9 + n % 5), negatives=((n + 1) % 9,)) for n in range(40)]
    steps = batches(examples, size=4, epochs=1.5, seed=1, apart=True)
    assert sum(map(len, steps)) == 60
    for step in steps:
        rows = [row for each in step for row in each.gold]
        assert len(rows) == len(set(rows))
    assert steps == batches(examples, size=4, epochs=1.5, seed=1, apart=True)
    assert steps != batches(examples, size=4, epochs=1.5, seed=2, apart=True)


def test_of_a_large_index_the_chunks_met_are_kept_with_all_their_windows(tmp_path: Path):
    rows = np.repeat(np.arange(100), 2)
    bank = Bank(np.arange(400, dtype=np.float32).reshape(200, 2), rows)
    assert bank.limited({3}, most=100) is bank
    bank.limited({3, 50, 98}, most=10).write(tmp_path)
    kept = Bank.of(tmp_path)
    assert {3, 50, 98} <= set(kept.rows.tolist())
    assert len(kept.rows) == len(kept.vectors) == 20
    assert (kept.vectors[:, 0] // 4 == kept.rows).all()


def test_negatives_are_all_windows_of_chunks_that_answer_nothing_of_the_batch(base: Path):
    drawn = torch.nn.functional.normalize(torch.randn(8, 32, generator=torch.Generator().manual_seed(0)), dim=1)
    task = EncoderTask(plan_of(base), Bank(drawn.numpy(), np.array([0, 1, 1, 2, 3, 3, 3, 4])))
    batch = [Example(question="fee", gold=(1, 0)), Example(question="card", gold=(3,))]
    loss = task.backward(batch, 1.0)
    asked = task._vectors(["fee", "card"]).detach()
    cosines = 20 * asked @ drawn.T
    answers = torch.stack([cosines[:, [1, 2]][0].argmax() + 1, cosines[:, [4, 5, 6]][1].argmax() + 4])
    columns = torch.cat([cosines[:, answers], cosines[:, [3, 7]]], 1)
    assert loss == pytest.approx(torch.nn.functional.cross_entropy(columns, torch.arange(2)).item(), abs=1e-3)
    assert task.model.encoder.layer[0].output.dense.weight.grad is not None


def test_weights_that_hurt_are_not_taken():
    held = HeldOut(["a", "b"], [frozenset({1}), frozenset({2})], [found([1, 2], [0.9, 0.1]), found([1, 2], [0.1, 0.9])])
    worse = [found([1, 2], [0.1, 0.9]), found([1, 2], [0.9, 0.1])]
    chosen = choose_share(held, {0.0: held.found, 1.0: worse}, SearchSettings())
    assert chosen.share == 0
    assert choose_share(held, {0.0: worse, 0.5: held.found}, SearchSettings()).share == 0.5

    class Contrary:
        def many(self, questions, texts):
            wrong = zip(texts, "21", strict=True)
            return [np.array([text == bad for text in each], dtype=np.float32) for each, bad in wrong]

    how, rows = choose_reranking(held, chosen, Contrary(), ["0", "1", "2"], depths=(2,))
    assert how == Reranking(2, 0.0)
    assert [list(each) for each in rows] == [[1, 2], [2, 1]]
    assert average({"w": torch.zeros(2)}, {"w": torch.ones(2)}, 0.25)["w"].tolist() == [0.25, 0.25]


@pytest.mark.parametrize(
    ("lost", "expected"),
    [
        ({5: [0.3, -0.2, 0, 0], 10: [0, 0, 0, 0], 20: [0, 0.1, 0, 0]}, 5),  # .025 on the mean, give or take .09
        ({5: [0.3, 0.3, 0.2, 0.2], 10: [0.1, -0.1, 0, 0], 20: [0, 0, 0, 0]}, 10),
        ({5: [0.3, 0.3, 0.2, 0.2], 10: [0.1, 0.1, 0.1, 0.2], 20: [0, 0, 0, 0]}, 20),
        ({5: [0.9, 0.3, 0.9, 0.5], 10: [0.6, 0.6, 0.6, 0.6], 20: [0.7, 0.5, 0.6, 0.7]}, 0),
    ],
)
def test_the_least_depth_is_taken_that_is_as_good_as_the_best(lost: dict[int, list[float]], expected: int):
    without = Reranking(5, 0.0)
    values = {Reranking(depth, 0.5): 1 - np.array(each) for depth, each in lost.items()}
    values |= {Reranking(how.depth, 0.7): each - 0.01 for how, each in values.items()}
    how = shallowest({without: np.array([0.4] * 4), **values}, without)
    assert how == (Reranking(expected, 0.5) if expected else without)


def test_of_weights_that_are_as_good_the_middle_one_is_taken():
    without, noise = Reranking(5, 0.0), np.array([0.2, -0.2, 0.1, -0.1])
    good = {
        Reranking(5, weight): np.array([0.8] * 4) - sign * noise for weight, sign in ((0.2, 0), (0.3, 1), (0.6, -1))
    }
    worse = {Reranking(5, 0.9): np.array([0.5] * 4), Reranking(10, 0.1): np.array([0.8] * 4)}
    assert shallowest({without: np.array([0.4] * 4), **worse, **good}, without) == Reranking(5, 0.3)


def test_examples_are_read_as_they_were_written(tmp_path: Path):
    given = Examples(read=("b",), train=(Example(question="q", gold=(0,), negatives=()),))
    given.write(tmp_path)
    assert Examples.of(tmp_path) == given
