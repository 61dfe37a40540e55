"""`inspect`: an answer token by token, against numbers worked out one by one."""

import io

import pytest
import torch

from training.engine import __main__ as command
from training.engine import checkpoint, rundir
from training.engine.heads import RewardModel, ScalarHead


@pytest.fixture
def folder(tmp_path, make_policy, story_tokenizer):
    shape = {"vocab_size": story_tokenizer.vocab_size, "max_positions": 64}
    checkpoint.save_policy(make_policy(**shape, seed=1), story_tokenizer, tmp_path / "policy")
    checkpoint.save_policy(make_policy(**shape, seed=2), story_tokenizer, tmp_path / "ref")
    head = ScalarHead(32, generator=torch.Generator().manual_seed(0))
    checkpoint.save_reward_model(RewardModel(make_policy(**shape, seed=3), head), story_tokenizer, tmp_path / "judge")
    return tmp_path


def inspect(folder, *more, judge=True):
    options = ["inspect", "--policy", str(folder / "policy"), "--ref-policy", str(folder / "ref")]
    return command.main([*options, *(["--reward-model", str(folder / "judge")] if judge else []), *more])


def test_it_shows_logprob_kl_and_value_of_every_token(folder, capsys):
    assert inspect(folder, "--prompt", "a fox", "--answer", "It ran.", "--temperature", "0.5") == rundir.EXIT_OK
    header, *lines, total, _, score = capsys.readouterr().out.splitlines()
    assert header.split() == ["token", "log-prob", "reference", "KL", "value"]
    tokenizer = checkpoint.load_tokenizer_of(folder / "policy")
    prompt = tokenizer.encode_prompt([{"role": "user", "content": "a fox"}])
    answer = tokenizer.encode_completion([{"role": "assistant", "content": "It ran."}])
    ids = torch.tensor([prompt + answer])
    judge = checkpoint.load_reward_model(folder / "judge")
    with torch.no_grad():
        mine, theirs = ((checkpoint.load_policy(folder / name)(ids)[0].double() / 0.5).log_softmax(-1)
                        for name in ("policy", "ref"))  # fmt: skip
        expected = []
        for place in range(len(prompt), len(prompt) + len(answer)):
            row, other, token = mine[place - 1], theirs[place - 1], ids[0, place]
            kl = sum((row[v].exp() * (row[v] - other[v])).item() for v in range(len(row)))
            value = judge(ids[:, :place]).item()  # of what stands before the token
            expected.append([row[token].item(), other[token].item(), kl, value])
        whole = judge(ids).item()
    found = [[float(cell) for cell in line.split()[-4:]] for line in lines]
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), atol=1e-3, rtol=0)
    sums = torch.tensor(expected).sum(0)[:3]
    torch.testing.assert_close(torch.tensor([float(cell) for cell in total.split()[1:]]), sums, atol=2e-3, rtol=0)
    assert float(score.split()[1]) == pytest.approx(whole, abs=1e-3)


def test_it_reads_what_is_pasted(folder, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("a fox\nand a kite\n.\nIt ran.\n"))
    assert inspect(folder, judge=False) == rundir.EXIT_OK
    pasted = capsys.readouterr().out
    assert inspect(folder, "--prompt", "a fox\nand a kite", "--answer", "It ran.", judge=False) == rundir.EXIT_OK
    assert capsys.readouterr().out == pasted
    assert "value" not in pasted and "score" not in pasted


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--prompt", "a " * 90, "--answer", "b"], "the policy and its reference read at most 64: shorten one."),
        (["--prompt", "a", "--answer", "b", "--policy", "/nowhere"], "/nowhere"),
        (["--prompt", "a", "--answer", "b", "--policy", "NO TOKENIZER"], "There is no tokenizer.json"),
        (["--prompt", "a " * 12, "--answer", "b", "--reward-model", "SHORT"], "the 16 tokens that --reward-model"),
        ([], "There is no prompt"),
    ],
)
def test_it_says_in_a_sentence_what_it_cannot_show(
    folder, capsys, monkeypatch, make_policy, story_tokenizer, more, sentence
):
    if "SHORT" in more:
        short = RewardModel(make_policy(vocab_size=story_tokenizer.vocab_size, max_positions=16), ScalarHead(32))
        checkpoint.save_reward_model(short, story_tokenizer, folder / "short")
    (folder / "bare").mkdir(exist_ok=True)
    more = [{"SHORT": str(folder / "short"), "NO TOKENIZER": str(folder / "bare")}.get(word, word) for word in more]
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert inspect(folder, *more) == rundir.EXIT_USAGE
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1
