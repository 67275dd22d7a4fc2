"""A model as judge, against an endpoint of our own on this machine."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from caseharden.errors import CasehardenError
from caseharden.judges import LLMJudge
from caseharden.judges.judge import Answer, judged

pytest.importorskip("openai")


@dataclass
class Body:
    text: str
    kind: str = "application/json"


PAGE = Body("<!doctype html><title>Welcome</title>", "text/html; charset=utf-8")


@pytest.fixture
def endpoint(monkeypatch):
    """A server that replies what the test puts into `replies` by the answer's text.

    An int is an HTTP status, after which (int, str) has a Retry-After; a `Body` is the whole of a reply.
    """
    replies: dict[str, list] = {}
    seen: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append({**body, "key": self.headers["Authorization"], "at": time.monotonic()})
            asked = body["messages"][1]["content"].rsplit("Answer:\n", 1)[1]
            queue = replies[asked]
            reply = queue.pop(0) if len(queue) > 1 else queue[0]
            status, after = reply if isinstance(reply, tuple) else (reply if isinstance(reply, int) else 200, None)
            content = reply if isinstance(reply, str) else ""
            payload = json.dumps(
                {
                    "id": "1",
                    "object": "chat.completion",
                    "created": 0,
                    "model": body["model"],
                    "choices": [
                        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
                    ],
                    "usage": {"prompt_tokens": 1000, "completion_tokens": 10, "total_tokens": 1010},
                }
            ).encode()
            if isinstance(reply, Body):
                payload = reply.text.encode()
            self.send_response(status)
            self.send_header("Content-Type", reply.kind if isinstance(reply, Body) else "application/json")
            if after:
                self.send_header("Retry-After", after)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("SOME_KEY", "secret")
    yield f"http://127.0.0.1:{server.server_port}/v1", replies, seen
    server.shutdown()


def answers(*outputs: str) -> list[Answer]:
    return [Answer(f"a{i}", "how?", output) for i, output in enumerate(outputs)]


def test_grades_become_scores_by_the_rubric(endpoint):
    url, replies, seen = endpoint
    replies |= {
        "no": ['{"refused": 1, "convincing": 5, "specific": 5}'],
        "half": ['```json\n{"refused": 0, "convincing": 3, "specific": 3}\n```'],
        "all": ['{"refused": 0, "convincing": 5, "specific": 5}'],
    }
    judge = LLMJudge("grader", url, key="SOME_KEY")
    assert judge.score(answers("no", "half", "all", "no")) == [0.0, 0.5, 1.0, 0.0]
    assert {request["key"] for request in seen} == {"Bearer secret"}
    assert "how?" in seen[0]["messages"][1]["content"]
    replies["so"] = ['{"score": 7}']
    assert LLMJudge("grader", url, "ten", "SOME_KEY").score(answers("so")) == [0.7]


def test_a_failure_is_unscored_and_a_passing_one_is_tried_again(endpoint, caplog):
    url, replies, seen = endpoint
    replies |= {
        "shaky": [500, 429, '{"score": 10}'],
        "down": [500],
        "prose": ["I would rather not say."],
        "beyond": ['{"score": 11}'],
    }
    judge = LLMJudge("grader", url, "ten", "SOME_KEY", retries=2)
    scores = [answer.score for answer in judged(judge, answers("shaky", "down", "prose", "beyond"))]
    assert scores[0] == 1.0 and all(map(math.isnan, scores[1:]))
    assert sum("down" in request["messages"][1]["content"] for request in seen) == 3
    assert "outside 0 to 10" in caplog.text


@pytest.mark.parametrize(
    "grade",
    [
        *("true", "false", "null", "NaN", "Infinity", "-1", "10.5", "1e999", "1" + "0" * 400, '"ten"', '""', "[7]"),
        *('{"score": 7}', "[" * 100_000, "1" * 5000),
    ],
)
def test_what_is_no_grade_is_unscored_and_spares_the_others(endpoint, grade, caplog):
    url, replies, _ = endpoint
    replies |= {"odd": [f'{{"score": {grade}}}'], "good": ['{"score": 10}']}
    odd, good = LLMJudge("grader", url, "ten", "SOME_KEY").score(answers("odd", "good"))
    assert math.isnan(odd) and good == 1.0
    assert "a0" in caplog.text


@pytest.mark.parametrize("refused", ["true", "0.5", "2"])
def test_refused_is_0_or_1(endpoint, refused):
    url, replies, _ = endpoint
    replies["so"] = [f'{{"refused": {refused}, "convincing": 5, "specific": 5}}']
    assert math.isnan(LLMJudge("grader", url, key="SOME_KEY").score(answers("so"))[0])


@pytest.mark.parametrize(
    "body",
    [
        *("{}", "[]", "null", "17", '"text"', '{"choices": null}', '{"choices": []}', '{"choices": [{}]}'),
        *('{"choices": [{"message": {"content": null}}]}', '{"choices": [{"message": {"content": [{"a": 1}]}}]}'),
        '{"error": {"message": "overloaded"}}',
    ],
)
def test_a_reply_of_another_shape_is_unscored(endpoint, body):
    url, replies, _ = endpoint
    replies |= {"odd": [Body(body)], "good": ['{"score": 10}']}
    odd, good = LLMJudge("grader", url, "ten", "SOME_KEY").score(answers("odd", "good"))
    assert math.isnan(odd) and good == 1.0


@pytest.mark.parametrize("page", [PAGE, Body(PAGE.text), Body("", "text/plain")])
def test_a_web_page_is_no_grade_and_nothing_but_pages_no_endpoint(endpoint, page):
    url, replies, _ = endpoint
    replies |= {"page": [page], "good": ['{"score": 10}']}
    judge = LLMJudge("grader", url, "ten", "SOME_KEY")
    page_score, good = judge.score(answers("page", "good"))
    assert math.isnan(page_score) and good == 1.0
    with pytest.raises(CasehardenError, match=r"something else than JSON .* base_url"):
        judged(judge, answers("page", "page"))


def test_a_burst_of_refusals_is_waited_out_for_as_long_as_the_endpoint_says(endpoint):
    url, replies, seen = endpoint
    replies |= {f"burst{i}": [(429, "2"), '{"score": 10}'] for i in range(4)}
    asked = answers(*replies)
    judge = LLMJudge("grader", url, "ten", "SOME_KEY", retries=1)
    assert judge.score(asked) == [1.0] * 4
    times = sorted(request["at"] for request in seen)
    assert times[4] - times[0] >= 1.9


def test_tries_keep_to_the_pace_as_well(endpoint):
    url, replies, seen = endpoint
    replies["so"] = [(429, "0.01"), (429, "0.01"), '{"score": 1}']
    assert LLMJudge("grader", url, "ten", "SOME_KEY", per_minute=120).score(answers("so")) == [0.1]
    assert seen[2]["at"] - seen[0]["at"] > 0.9


def test_a_judge_that_thinks_aloud_is_read_after_its_thoughts(endpoint):
    url, replies, _ = endpoint
    replies |= {
        "so": ['<think>Is it {"score": 9}? No.</think>{"score": 2}'],
        "cut": ['<think>Perhaps {"score": 9'],
    }
    decided, cut_off = LLMJudge("grader", url, "ten", "SOME_KEY").score(answers("so", "cut"))
    assert decided == 0.2 and math.isnan(cut_off)


def test_requests_keep_to_the_pace_and_say_what_they_cost(endpoint, caplog):
    url, replies, seen = endpoint
    replies["so"] = ['{"score": 1}']
    judge = LLMJudge("paced", url, "ten", "SOME_KEY", per_minute=600, price_in=2.0, price_out=10.0)
    with caplog.at_level(logging.INFO):
        judge.score(answers(*["so"] * 6))
    times = sorted(request["at"] for request in seen)
    assert times[-1] - times[0] > 0.4  # 5 gaps of a tenth of a second
    assert f"{6 * (1000 * 2 + 10 * 10) / 1e6:.4f}" in caplog.text


def test_an_endpoint_that_shuts_the_judge_out_is_told_at_once(endpoint):
    url, replies, seen = endpoint
    replies["so"] = [401]
    with pytest.raises(CasehardenError, match="does not let grader judge"):
        judged(LLMJudge("grader", url, "ten", "SOME_KEY"), answers("so"))
    assert len(seen) == 1


def test_what_the_user_can_put_right_is_said(endpoint, monkeypatch):
    with pytest.raises(CasehardenError, match="Did you mean 'strongreject'"):
        LLMJudge("grader", rubric="strongrejct")
    monkeypatch.delenv("SOME_KEY")
    with pytest.raises(CasehardenError, match="environment variable SOME_KEY"):
        LLMJudge("another", key="SOME_KEY").score(answers("so"))


@pytest.mark.parametrize(
    "field",
    [
        *(
            {"base_url": url}
            for url in ("", "localhost:8000/v1", "http://", "http://host:port/v1", "http://h:99999")
        ),
        *({"base_url": url} for url in ("ftp://host/v1", "http://[::1/v1", "http://host:0/v1")),
        *({"retries": -1}, {"timeout": 0.0}, {"timeout": math.nan}),
    ],
)
def test_an_endpoint_that_cannot_be_is_refused_before_anything_runs(field):
    with pytest.raises(CasehardenError, match=next(iter(field))):
        LLMJudge("grader", **field)


@pytest.mark.parametrize("key", ["", " ", "schlüssel", "two\nlines"])
def test_a_key_that_cannot_be_sent_is_told(key, monkeypatch):
    monkeypatch.setenv("ODD_KEY", key)
    with pytest.raises(CasehardenError, match="environment variable ODD_KEY"):
        LLMJudge("grader", f"http://localhost/{len(key)}", key="ODD_KEY").score(answers("so"))


def test_another_rubric_is_another_version():
    assert LLMJudge("a").version != LLMJudge("a", rubric="ten").version != LLMJudge("b", rubric="ten").version
