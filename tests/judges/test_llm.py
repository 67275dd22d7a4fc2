"""A model as judge, against an endpoint of our own on this machine."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from caseharden.errors import CasehardenError
from caseharden.judges import LLMJudge
from caseharden.judges.judge import Answer, judged

pytest.importorskip("openai")


@pytest.fixture
def endpoint(monkeypatch):
    """A server that replies what the test puts into `replies` by the answer's text; an int is an HTTP status."""
    replies: dict[str, list] = {}
    seen: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append({**body, "key": self.headers["Authorization"], "at": time.monotonic()})
            asked = body["messages"][1]["content"].rsplit("Answer:\n", 1)[1]
            queue = replies[asked]
            reply = queue.pop(0) if len(queue) > 1 else queue[0]
            status, content = (reply, "") if isinstance(reply, int) else (200, reply)
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
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
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


def test_another_rubric_is_another_version():
    assert LLMJudge("a").version != LLMJudge("a", rubric="ten").version != LLMJudge("b", rubric="ten").version
