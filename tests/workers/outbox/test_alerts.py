"""Alerts on their way out: to a real HTTP server that refuses first, or to the log."""

from __future__ import annotations

import hmac
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import typer
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError
from structlog.testing import capture_logs
from typer.testing import CliRunner

from gateway.cli import releases as commands
from schemas.tables import Alert
from tests.workers.releases.harness import Service
from workers.alerts import AlertKind, raise_alert
from workers.app import away
from workers.db import session_factory
from workers.errors import SettingsInvalid, WebhookAway
from workers.outbox.alerts import SIGNATURE, AlertDelivery
from workers.settings import RelaySettings

SECRET = "between-us"


@pytest.fixture
def service(tmp_path: Path, database: Any, buckets: Any, brokers: Any) -> Iterator[Service]:
    made = Service(tmp_path, database, buckets, brokers)
    with made.sessions.begin() as session:
        session.execute(text("UPDATE alerts SET delivered_at = now() WHERE delivered_at IS NULL"))
    yield made
    made.stop()


@pytest.fixture
def deliverer(service: Service) -> Iterator[Callable[..., AlertDelivery]]:
    """Deliveries with the relay's own role."""
    sessions = session_factory(service.relay_settings.database_url)
    yield lambda **values: AlertDelivery(service.relay_settings.model_copy(update=values), sessions)
    sessions.kw["bind"].dispose()


class Hook:
    """A webhook. It answers with `answers` in turn, and then with 204."""

    def __init__(self, *answers: int) -> None:
        self.answers = list(answers)
        self.heard: list[tuple[dict[str, str], bytes]] = []

    @property
    def ids(self) -> list[int]:
        return [json.loads(body)["id"] for _, body in self.heard]

    @contextmanager
    def listening(self) -> Iterator[str]:
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.heard.append((dict(self.headers), body))
                self.send_response(hook.answers.pop(0) if hook.answers else 204)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self) -> None:
                raise AssertionError("an alert followed a redirect")

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/hook"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def alert(service: Service, kind: AlertKind = AlertKind.GLASS_BROKEN, **detail: Any) -> int:
    with service.worker.begin() as session:
        raise_alert(session, kind, **detail)
    with service.sessions() as session:
        return session.scalars(select(Alert.id).order_by(Alert.id.desc()).limit(1)).one()


def delivered(service: Service, *ids: int) -> list[bool]:
    with service.sessions() as session:
        rows = dict(session.execute(select(Alert.id, Alert.delivered_at).where(Alert.id.in_(ids))).all())
    return [rows[each] is not None for each in ids]


def test_an_alert_is_sent_until_it_is_taken(service: Service, deliverer: Callable[..., AlertDelivery]) -> None:
    hook = Hook(503, 500)
    first = alert(service, request="r-1")
    with hook.listening() as url:
        delivery = deliverer(alert_webhook=url, alert_secret=SECRET)
        for _ in range(2):
            with pytest.raises(WebhookAway, match="status 50") as refused:
                delivery.deliver()
            assert away(refused.value) and delivered(service, first) == [False]
        assert delivery.deliver() == 1 and delivered(service, first) == [True]
        assert delivery.deliver() == 0
    assert hook.ids == [first] * 3
    headers, body = hook.heard[-1]
    told = json.loads(body)
    assert (told["v"], told["what"], told["kind"]) == (1, "refacex alert", "glass_broken")
    assert told["detail"] == {"request": "r-1"} and told["at"].endswith("+00:00")
    assert headers["Content-Type"] == "application/json"
    assert headers[SIGNATURE] == "sha256=" + hmac.new(SECRET.encode(), body, "sha256").hexdigest()


def test_without_a_secret_nothing_is_signed(service: Service, deliverer: Callable[..., AlertDelivery]) -> None:
    hook = Hook()
    alert(service)
    with hook.listening() as url:
        deliverer(alert_webhook=url).deliver()
    assert SIGNATURE not in hook.heard[0][0]


def test_one_that_is_always_refused_holds_up_no_other(
    service: Service, deliverer: Callable[..., AlertDelivery]
) -> None:
    hook = Hook(400)
    poison, other = alert(service), alert(service)
    with hook.listening() as url:
        with pytest.raises(WebhookAway):
            deliverer(alert_webhook=url).deliver()
        assert delivered(service, poison, other) == [False, True]
        assert deliverer(alert_webhook=url).deliver() == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_an_answer_that_points_elsewhere_is_no_delivery(
    status: int, service: Service, deliverer: Callable[..., AlertDelivery]
) -> None:
    hook = Hook(status)
    waiting = alert(service)
    with hook.listening() as url:
        with pytest.raises(WebhookAway, match=str(status)):
            deliverer(alert_webhook=url).deliver()
        assert len(hook.heard) == 1 and delivered(service, waiting) == [False]
        deliverer(alert_webhook=url).deliver()


def test_nobody_listens(service: Service, deliverer: Callable[..., AlertDelivery]) -> None:
    with Hook().listening() as url:
        pass
    waiting = alert(service)
    with pytest.raises(WebhookAway):
        deliverer(alert_webhook=url).deliver()
    assert delivered(service, waiting) == [False]


def listed(service: Service, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], str]:
    """The newest alert as `refacex alerts` tells programs, and what it shows people."""
    for name, value in service.environment("gateway").items():
        monkeypatch.setenv(name, value)
    app = typer.Typer()
    commands.register(app)
    newest = json.loads(CliRunner().invoke(app, ["alerts", "--json", "--limit", "1"]).stdout)
    return newest, CliRunner().invoke(app, ["alerts", "--limit", "1"]).stdout


def test_without_a_webhook_the_log_has_it_and_nobody_is_said_to_have_been_told(
    service: Service, deliverer: Callable[..., AlertDelivery], monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = alert(service, AlertKind.TICKET_REFUSED, ticket="t-1")
    with capture_logs() as lines:
        assert deliverer().deliver() == 1
    assert delivered(service, waiting) == [True]
    (line,) = [line for line in lines if line["event"] == "alert_without_webhook"]
    assert (line["log_level"], line["kind"], line["detail"]) == ("critical", "ticket_refused", {"ticket": "t-1"})
    assert not [line for line in lines if line["event"] == "alerts_delivered"]
    told, shown = listed(service, monkeypatch)
    assert (told["id"], told["here_only"], told["delivered_at"]) == (waiting, True, None)
    assert "shown here only" in shown
    with Hook().listening() as url:
        posted = alert(service)
        deliverer(alert_webhook=url).deliver()
    told, _ = listed(service, monkeypatch)
    assert (told["id"], told["here_only"]) == (posted, False) and told["delivered_at"]


def test_two_relays_send_it_once(service: Service, deliverer: Callable[..., AlertDelivery]) -> None:
    hook = Hook()
    waiting = alert(service)
    with hook.listening() as url, service.sessions.begin() as other:
        other.execute(select(Alert.id).where(Alert.id == waiting).with_for_update())
        assert deliverer(alert_webhook=url).deliver() == 0
    assert hook.heard == [] and delivered(service, waiting) == [False]


def test_the_relay_delivers_by_itself_and_the_command_lists(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    hook = Hook(503)
    waiting = alert(service, AlertKind.MESSAGE_REFUSED, code="ticket_unknown")
    with hook.listening() as url:
        service.start_relay(ALERT_WEBHOOK=url, ALERT_SECRET=SECRET)
        service.eventually(lambda: delivered(service, waiting) == [True])
    assert hook.ids == [waiting] * 2
    assert url not in service.log("relay") and SECRET not in service.log("relay")
    for name, value in service.environment("gateway").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COLUMNS", "200")
    app = typer.Typer()
    commands.register(app)
    newest = json.loads(CliRunner().invoke(app, ["alerts", "--json", "--limit", "1"]).stdout)
    assert (newest["id"], newest["kind"]) == (waiting, "message_refused") and newest["delivered_at"]
    shown = CliRunner().invoke(app, ["alerts"])
    assert shown.exit_code == 0 and "code ticket_unknown" in shown.stdout


def test_nobody_else_may_mark_one_as_delivered(service: Service) -> None:
    for sessions in (service.gateway, service.worker):
        with sessions.begin() as session, pytest.raises(DBAPIError, match="permission denied"):
            session.execute(text("UPDATE alerts SET delivered_at = now()"))


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://x", "hook", "http://", "http://x y"])
def test_a_webhook_is_an_http_address(url: str, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in service.environment("relay", ALERT_WEBHOOK=url).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsInvalid, match="REFACEX_ALERT_WEBHOOK") as refused:
        RelaySettings.load()
    assert url not in str(refused.value)


def test_settings_show_neither_webhook_nor_secret(service: Service) -> None:
    settings = service.relay_settings.model_copy(update={"alert_webhook": "http://x/token", "alert_secret": SECRET})
    assert "token" not in repr(settings) and SECRET not in repr(settings)
