"""The page of the rating command: its calls, and that nobody but the page itself can make them."""

from __future__ import annotations

import base64
import hashlib
import re
import socket
from types import SimpleNamespace

import pytest

from configs import UserError
from data.chat import Message
from data.preferences import read_preferences
from train.rate_web import page, refusal, serve
from train.rating import Said, Session, Setup, questions_of

needs_web = pytest.mark.usefixtures("web_installed")
EVIL = "<script>document.title = 'taken'</script><img src=x onerror=alert(1)>"
PORT = 8765
HOME = f"http://127.0.0.1:{PORT}"
WELL = SimpleNamespace(failure=None)


@pytest.fixture
def web_installed():
    """What --web and its tests need."""
    for name in ("fastapi", "uvicorn", "httpx"):
        pytest.importorskip(name, reason=f"{name} is not installed (the extras serve and test)")


def session_in(folder, scores: bool = False, count: int = 3) -> Session:
    prompts = [(Message("system", "Be brief."), Message("user", f"{EVIL} {i}")) for i in range(count)]
    session = Session(folder / "out.jsonl", questions_of(prompts, 1, scores, 1, 0), Setup(("run",), scores=scores))
    makers = 1 if scores else 2
    session.answered({i: tuple(Said(f"{EVIL} {place}", place == 0) for place in range(makers)) for i in range(count)})
    return session


def client_of(session: Session, ahead=WELL, base: str = HOME):
    from fastapi.testclient import TestClient

    from train.rate_web import application

    return TestClient(application(session, ahead, PORT), base_url=base)


@needs_web
def test_a_session_by_calls(tmp_path):
    session = session_in(tmp_path)
    client = client_of(session)
    state = client.get("/api/state").json()
    assert (state["question"], state["rated"], state["total"], state["last"]) == (0, 0, 3, None)
    assert [message["role"] for message in state["prompt"]] == ["system", "user"]
    assert [answer["text"] for answer in state["answers"]] == [said.text for said in session.shown(0)]
    assert {answer["finished"] for answer in state["answers"]} == {True, False}
    state = client.post("/api/rate", json={"question": 0, "choice": "left"}).json()
    assert (state["question"], state["rated"], state["last"]) == (1, 1, 0)
    assert client.post("/api/undo", json={"question": 0}).json()["question"] == 0
    for question, choice in enumerate(("right", "tie", "left")):
        state = client.post("/api/rate", json={"question": question, "choice": choice}).json()
    assert state["question"] is None and state["file"] == str(tmp_path / "out.jsonl") and state["runs"] == ["run"]
    assert state["summary"]["choices"] == {"right": 1, "tie": 1, "left": 1} and state["summary"]["rows"] == 2
    assert [pair.chosen for pair in read_preferences(session.path)] == [
        session.shown(0)[1].text,
        session.shown(2)[0].text,
    ]


@needs_web
def test_a_page_that_is_behind_gets_the_state_and_changes_nothing(tmp_path):
    session = session_in(tmp_path)
    client = client_of(session)
    client.post("/api/rate", json={"question": 0, "choice": "left"})
    for path, body in (("rate", {"question": 0, "choice": "left"}), ("undo", {"question": 2})):
        answer = client.post(f"/api/{path}", json=body)
        assert answer.status_code == 409 and answer.json()["question"] == 1
    assert client.post("/api/rate", json={"question": 1, "choice": "best"}).status_code == 400
    for body in ({}, {"question": "x", "choice": "left"}, {"question": 1}, []):
        assert client.post("/api/rate", json=body).status_code == 422
    assert len(session.state.ratings) == 1


@needs_web
def test_waiting_and_failure_are_told(tmp_path):
    session = session_in(tmp_path)
    session.state.answers.clear()
    state = client_of(session, SimpleNamespace(failure=UserError("no numbers"))).get("/api/state").json()
    assert state["ready"] is False and state["answers"] == [] and state["failure"] == "no numbers"


@needs_web
def test_scores_by_calls(tmp_path):
    session = session_in(tmp_path, scores=True)
    client = client_of(session)
    assert len(client.get("/api/state").json()["answers"]) == 1
    assert client.post("/api/rate", json={"question": 0, "choice": "tie"}).status_code == 400
    assert client.post("/api/rate", json={"question": 0, "choice": "4"}).json()["rated"] == 1


@needs_web
@pytest.mark.parametrize("host", ["evil.example", f"evil.example:{PORT}", "127.0.0.1", "127.0.0.1:80", "localhost", ""])
def test_a_request_under_another_name_is_refused(tmp_path, host):
    """DNS rebinding: a name of another site that is made to point to this machine."""
    session = session_in(tmp_path)
    client = client_of(session)
    for path in ("/", "/api/state"):
        answer = client.get(path, headers={"host": host})
        assert answer.status_code == 421 and EVIL not in answer.text
    answer = client.post("/api/rate", json={"question": 0, "choice": "left"}, headers={"host": host})
    assert answer.status_code == 421 and not session.state.ratings
    assert client.get("/", headers={"host": f"localhost:{PORT}"}).status_code == 200


@needs_web
@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
    ],
)
def test_a_post_of_another_site_is_refused(tmp_path, headers):
    session = session_in(tmp_path)
    body = b'{"question": 0, "choice": "left"}'
    answer = client_of(session).post(
        "/api/rate", content=body, headers={"content-type": "application/json", "origin": HOME} | headers
    )
    assert answer.status_code in (403, 415) and not session.state.ratings
    own = {"content-type": "application/json", "origin": HOME, "sec-fetch-site": "same-origin"}
    assert client_of(session).post("/api/rate", content=body, headers=own).status_code == 200


def test_the_rule_itself():
    own = {"host": f"127.0.0.1:{PORT}", "origin": HOME, "content-type": "application/json"}
    assert refusal("POST", own, PORT) is None
    assert (
        refusal("POST", {"host": f"LOCALHOST:{PORT}", "content-type": "application/json; charset=utf-8"}, PORT) is None
    )
    assert refusal("POST", own, PORT + 1)[0] == 421 and refusal("GET", {}, PORT)[0] == 421


@needs_web
def test_the_page_uses_nothing_but_itself(tmp_path):
    answer = client_of(session_in(tmp_path)).get("/")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["cache-control"] == "no-store"
    assert answer.text == page()[0] and EVIL not in answer.text
    assert client_of(session_in(tmp_path / "b")).get("/docs").status_code == 404


def test_the_page_is_one_file_whose_policy_fits():
    text, policy = page()
    assert not re.search(r"https?://|@import|url\(|<link(?![^>]*data:)|\ssrc=|\son\w+=|style=", text)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", text)
    script = re.search("<script>(.*)</script>", text, re.DOTALL).group(1)
    assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy


@needs_web
def test_a_port_that_is_taken_is_one_sentence(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} cannot be used .*--port another number"):
            serve(session_in(tmp_path), WELL, port)
