"""Supervised fine-tuning: what is learned, packing that shows no row another, chat templates, and rewards that are checked."""

from decimal import Decimal

import numpy as np
import pytest
import torch
from align_oracle import close
from refused import refused

from llmcore import align
from llmcore.align import ChatTemplate, Encoder, SFTTrainer
from llmcore.align.rewards import RewardParts, last_number
from llmcore.align.sft import ExampleSource, encode_example, pack_examples
from llmcore.align.sums import SumTokenizer, make_sums, sum_reward, work_out
from llmcore.model import ModelConfig, Transformer
from llmcore.tokenizer import BPETokenizer
from llmcore.train import TrainConfig
from llmcore.train.loss import IGNORED, linear_cross_entropy

ROWS = make_sums(23, seed=0)
SPEAKS = {"tokenizer": SumTokenizer(), "end_id": 0}
MARKS = ("<|im_start|>", "<|im_end|>")


def tiny() -> Transformer:
    return Transformer(
        ModelConfig(vocab_size=15, context=64, width=12, n_layers=2, n_heads=3), torch.Generator().manual_seed(0)
    )


@pytest.fixture(scope="module")
def chat_tokenizer():
    return BPETokenizer.train(["user assistant system hello what is four? four."], vocab_size=280, special_tokens=MARKS)


def loss_and_gradient(source: ExampleSource):
    model = tiny().double()
    batch = source.batch(0, np.arange(source.n_rows))
    hidden = model.hidden(batch.ids, batch.positions, batch.doc_ids)
    loss, _ = linear_cross_entropy(hidden, model.head_weight, batch.targets)
    loss.backward()
    return loss, model.embedding.weight.grad, int((batch.targets != IGNORED).sum())


def test_packed_rows_teach_exactly_what_single_rows_teach():
    found = {}
    for packed in (True, False):
        source = ExampleSource(ROWS, Encoder(**SPEAKS), context=40, packed=packed)
        found[packed] = loss_and_gradient(source)
        assert source.n_rows == (12 if packed else 23)
    assert found[True][2] == found[False][2] == sum(len(row["response"]) + 1 for row in ROWS)
    close(found[True][0], found[False][0], atol=1e-4, rtol=1e-7)
    close(found[True][1], found[False][1], atol=1e-5, rtol=1e-5)


def test_only_answers_are_targets_and_never_across_examples():
    rows = pack_examples([([5, 6, 7], [False, True, True]), ([8, 9, 4], [False, False, True])], context=7)
    assert rows.ids.tolist() == [[5, 6, 7, 8, 9, 4, 0]]
    assert rows.targets.tolist() == [[6, 7, IGNORED, IGNORED, 4, IGNORED, IGNORED]]


def test_every_row_is_seen_once_an_epoch_and_a_resumed_run_is_the_same(tmp_path):
    options = {
        "total_steps": 6,
        "batch_size": 4,
        "context": 40,
        "progress": False,
        "device": "cpu",
        "eval_every": 3,
        "schedule": "constant",
    }
    runs = {}
    for name in ("whole", "cut"):
        config = TrainConfig(**options, out_dir=str(tmp_path / name), save_every=2)
        if name == "cut":
            SFTTrainer(config.replace(total_steps=4), tiny(), ROWS, **SPEAKS).fit()
        runs[name] = SFTTrainer(config, tiny(), ROWS, **SPEAKS, eval_rows=ROWS[:5]).fit()
    assert runs["whole"].losses == runs["cut"].losses
    for a, b in zip(runs["whole"].model.parameters(), runs["cut"].model.parameters()):
        assert torch.equal(a, b)
    assert runs["whole"].eval_losses[-1][1] < runs["whole"].eval_losses[0][1]
    source = ExampleSource(ROWS, Encoder(**SPEAKS), context=40, batch_size=4, seed=3)
    seen = torch.cat([source.batch(step, np.arange(4)).doc_ids.flatten() for step in range(3)])
    assert set(seen.tolist()) == {-1, *range(23)}


def test_a_template_marks_the_assistant_s_words_and_their_end(chat_tokenizer):
    messages = [
        {"role": "system", "content": "hello"},
        {"role": "user", "content": "what is four?"},
        {"role": "assistant", "content": "four."},
        {"role": "user", "content": "hello <|im_end|>"},
        {"role": "assistant", "content": "four."},
    ]
    template = ChatTemplate()
    ids, mask = template.encode(chat_tokenizer, messages)
    assert chat_tokenizer.decode(ids) == template.text(messages)
    learned = [index for index, counts in zip(ids, mask) if counts]
    assert chat_tokenizer.decode(learned) == "four.<|im_end|>" * 2
    assert ids.count(template.end_id(chat_tokenizer)) == 5  # what the user typed is text
    encoder = Encoder(tokenizer=chat_tokenizer, template=template)
    assert encoder.end_id == template.end_id(chat_tokenizer)
    one = encode_example(encoder, {"messages": messages[1:3]}, 0)
    pair = encode_example(encoder, {"prompt": messages[1:2], "response": "four."}, 0)
    plain = encode_example(encoder, {"prompt": "what is four?", "response": "four."}, 0)
    assert pair == plain
    assert one[0][: len(pair[0])] == pair[0]
    assert one[1][: len(pair[1])] == pair[1]
    assert encoder.text(encoder.response({"response": "four."}, 0)) == "four."


def test_what_a_template_cannot_write_is_refused(chat_tokenizer):
    encoder = Encoder(tokenizer=chat_tokenizer, template=ChatTemplate())
    for row, message in (
        ({"messages": []}, "row 4, field 'messages': a conversation needs at least one message"),
        (
            {"messages": [{"role": "robot", "content": "x"}]},
            "must have a role among system, user, assistant, got 'robot'",
        ),
        ({"messages": [{"role": "user"}]}, "message 0 must be"),
        ({"prompt": "x"}, "row 4 has no field 'response'"),
    ):
        with refused(message):
            encode_example(encoder, row, 4)
    with refused("must be one token of the tokenizer, got"):
        Encoder(tokenizer=BPETokenizer.train(["a"], vocab_size=257), template=ChatTemplate())
    with refused("needs a tokenizer"):
        Encoder(template=ChatTemplate())
    with refused("the template ends answers with id 1, got end_id=7"):
        Encoder(tokenizer=chat_tokenizer, template=ChatTemplate(), end_id=7)


def test_rows_that_are_too_long_or_teach_nothing_are_refused_or_dropped():
    long = {"prompt": "11+11=", "response": "1" * 60}
    with refused("row 23 has 67 tokens and a row holds context=40"):
        ExampleSource([*ROWS, long], Encoder(**SPEAKS), context=40)
    assert ExampleSource([*ROWS, long], Encoder(**SPEAKS), context=40, too_long="drop").n_rows == 12
    with refused("no token to learn"):
        ExampleSource([long], Encoder(**SPEAKS), context=40, too_long="drop")
    with refused("no token to learn"):
        ExampleSource([{"prompt": [1, 2], "response": []}], Encoder(), context=40)
    with refused("at least one row of data"):
        ExampleSource([], Encoder(**SPEAKS), context=40)
    with refused("row 1 has no field 'response'; it has 'prompt'"):
        ExampleSource([ROWS[0], {"prompt": "1+1="}], Encoder(**SPEAKS), context=40)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 7, then 1,234.50", "1234.50"),
        ("-3", "-3"),
        ("3-5", "5"),
        ("x = \u2212.5", "-0.5"),
        ("1.2e3 km", "1200"),
        ("7.", "7"),
        ("v2 and a1", None),
        ("", None),
    ],
)
def test_the_last_number_is_read_as_written(text, number):
    found = last_number(text)
    assert found == (None if number is None else Decimal(number))


def test_rewards_judge_the_answer_and_nothing_else():
    exact = align.exact_reward("answer", after="=")
    assert [exact({"answer": 12}, text) for text in ("12", "1+1=2, so=12 ", "=12=13", "=012")] == [0, 1, 0, 0]
    numeric = align.numeric_reward(tolerance=0.01)
    assert [numeric({"answer": "0.5"}, text) for text in ("7 then .5", "0.511", "0.509", "none")] == [1, 0, 1, 0]
    form = align.format_reward(r"<a>.*</a>")
    assert [form({}, text) for text in ("<a>x\ny</a>\n", "say <a>x</a>")] == [1, 0]
    with refused("the row has no field 'answer'; it has 'question'"):
        exact({"question": 1}, "=1")
    with refused("must hold a number"):
        numeric({"answer": "many"}, "3")
    with refused("is no regular expression"):
        align.format_reward("(")
    with refused("tolerance must be at least 0"):
        align.numeric_reward(tolerance=-1)
    with refused("a reward must be a function"):
        RewardParts({"x": 3})
    total, parts = RewardParts({"right": exact, "form": (0.5, form)})({"answer": 2}, "<a>=2</a>", 0)
    assert (total, parts) == (0.5, {"right": 0.0, "form": 1.0})


def test_the_world_of_sums_is_right_and_splits_cleanly():
    assert work_out(999, 1) == "10,10,10:1000"
    for row in make_sums(50, seed=1, carrying=0.5):
        first, second = (int(number) for number in row["prompt"][:-1].split("+"))
        assert int(row["answer"]) == first + second
        assert sum_reward()(row, row["chosen"]) == 1
        assert sum_reward()(row, row["rejected"]) == (row["chosen"] == row["rejected"])
    train, test = ({row["prompt"] for row in make_sums(800, seed=2, test=test)} for test in (False, True))
    assert not train & test
    careless = make_sums(400, seed=3, carrying=1.0, careless=0.8)
    assert 0.7 < sum(row["response"] == row["rejected"] for row in careless) / 400 < 0.9
    tokenizer = SumTokenizer()
    assert tokenizer.decode(tokenizer.encode(careless[0]["response"])) == careless[0]["response"]
    with refused("has the symbols"):
        tokenizer.encode("1 + 1")
    with refused("digits must be at least 2"):
        make_sums(1, seed=0, digits=1)
