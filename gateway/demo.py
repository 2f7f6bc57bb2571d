"""`make demo`: the main job end to end on real photographs, with real engines, real workers and people with keys of their own."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from importlib.resources import as_file, files
from pathlib import Path
from uuid import UUID

from rich.console import Console
from sqlalchemy.orm import sessionmaker

from gateway.demo_run import Photograph, Run
from gateway.provision import Home
from gateway.up import System
from schemas.requests import FaceRef, decision_message, face_info, fetch_message, request_message
from schemas.states import Decision, ItemState, RecoveryState, RequestState
from schemas.submissions import submission_message
from schemas.tables import Item
from workers.audit.crosscheck import crosscheck
from workers.audit.heads import Anchors, HeadVerifier
from workers.audit.verify import verify
from workers.custody import keys
from workers.custody.judge import Signed
from workers.custody.opening import open_sealed
from workers.custody.roster import APPROVER, REQUESTER, SUBMITTER, RosterPerson, add_person, load_roster
from workers.db import make_engine
from workers.errors import WorkerError
from workers.exports import fetching
from workers.exports import service as exports
from workers.logs import configure_logs
from workers.recoveries import decisions, people
from workers.recoveries import service as recoveries
from workers.recoveries.errors import NothingToFetch, OwnRequest
from workers.releases import reporting
from workers.releases import service as releases
from workers.releases.sources import collect, path_of
from workers.settings import GatewaySettings
from workers.storage import Storage
from workers.words import number_of

TENANT = "demo"
PEOPLE = {
    "sami-submitter": (SUBMITTER,),
    "rita-requester": (REQUESTER, APPROVER),  # an approver too: to show that nobody approves their own request
    "ada-approver": (APPROVER,),
    "bela-approver": (APPROVER,),
}
RELEASE_SECONDS, RECOVERY_SECONDS, EXPORT_SECONDS = 1800.0, 900.0, 300.0


class DemoFailed(WorkerError):
    """The demo did not get to its end."""

    code = "demo_failed"


def run_demo(images: Path | None, *, home: Path, out: Path, console: Console | None = None) -> int:
    """Run everything; figures and a contact sheet below `out`. Exit code 0 only if every photograph made it and the trail holds.

    Raises EngineError and WorkerError with what to do next.
    """
    console = console or wide_console()
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
    configure_logs("demo", "console", "WARNING")
    out.mkdir(parents=True, exist_ok=True)
    if images is not None and not images.is_dir():
        raise DemoFailed("IMAGES must be a folder with photographs")
    with as_file(files("gateway") / "demo_images") as shipped:
        folder = (images or Path(shipped)).absolute()
        overrides = {"REFACEX_ANCHOR_SECONDS": "2", "REFACEX_LOG_FORMAT": "json"}
        (Home(home).logs / "release.log").unlink(missing_ok=True)  # what it says of loading must be of this run
        console.print(f"[bold]ReFaceX demo[/] on {folder.name}; engines, keys and logs below {home}", soft_wrap=True)
        with System(home, source_roots=[folder], overrides=overrides) as system:
            steps = Steps(console, system, folder, out)
            try:
                run = steps.run()
            finally:
                steps.close()
        from gateway.demo_figures import show  # loads the networks, after the workers have given the cores back

        complete = show(run, out, console)
        if run.risk_report is not None:
            console.print("risk report (a page for people; the JSON lies beside it):")
            console.print(f"[bold]{run.risk_report.absolute()}[/]", soft_wrap=True, highlight=False)
    if not complete:
        console.print("[yellow]Not every photograph went all the way: the table says which, and why.[/]")
    return 0 if complete and run.verification.ok else 1


def wide_console() -> Console:
    """A terminal as it is; 120 columns where the output goes to a file or another program."""
    console = Console()
    return console if console.is_terminal else Console(width=120)


def apart(names: Iterable[str]) -> list[str]:
    """Names without their suffixes, no two of them one file where upper and lower case are one: IMG_1.heic and
    IMG_1.jpg give IMG_1 and IMG_1-2.
    """
    taken: set[str] = set()
    stems: list[str] = []
    for name in names:
        plain = stem = str(Path(name).with_suffix(""))
        number = 1
        while stem.casefold() in taken:
            number += 1
            stem = f"{plain}-{number}"
        taken.add(stem.casefold())
        stems.append(stem)
    return stems


class Steps:
    """The steps, in the order in which people and processes take them."""

    def __init__(self, console: Console, system: System, folder: Path, out: Path) -> None:
        self._console = console
        self._system = system
        self._folder = folder
        self._out = out
        self._home: Home = system.home
        self._settings = GatewaySettings.load(system.home.env("gateway"))
        self._engine = make_engine(self._settings.database_url)
        self._sessions = sessionmaker(self._engine, expire_on_commit=False)
        self._storage = Storage(self._settings)
        self._people: dict[str, keys.KeyFile] = {}
        self._step = 0
        self._result = Run()

    def run(self) -> Run:
        """All of them. Raises DemoFailed where a process does not answer in time."""
        self._say(f"{len(self._system.engines.running)} engines and {len(self._system.alive())} processes run")
        self._enrol()
        release = self._release()
        self._publish()
        self._recover(release)
        self._export(release)
        self._report(release)
        self._verify()
        return self._result

    def close(self) -> None:
        """Give back the database connections."""
        self._engine.dispose()

    def _say(self, line: str) -> None:
        self._step += 1
        self._console.print(f"  [green]{self._step}[/] {line}", highlight=False, soft_wrap=True)

    def _enrol(self) -> None:
        """People make their own keys; the roster, which the custodian alone reads, gets the public halves."""
        folder = self._home.path / "people"
        folder.mkdir(mode=0o700, exist_ok=True)
        roster = self._home.key("roster.json")
        for name, roles in PEOPLE.items():
            path = folder / f"{name}.json"
            if not path.exists():
                keys.create_person_key(path)
            own = self._people[name] = keys.load(path, keys.FileKind.PERSON)
            signing, receiving = own.of(keys.KeyType.ED25519).public, own.of(keys.KeyType.X25519).public
            person = RosterPerson(name, TENANT, roles, signing, receiving)
            if name not in load_roster(roster).people:
                add_person(roster, person)
            with self._sessions.begin() as session:
                people.add(session, person, "demo")
        self._say(f"{len(PEOPLE)} people with keys of their own: one submits, one asks, two decide")

    def _release(self) -> UUID:
        sources = collect([str(self._folder)], [self._folder])
        started = time.monotonic()
        submitter, options = next(iter(PEOPLE)), releases.ReleaseOptions()
        terms = releases.draft(TENANT, submitter, options, sources)
        signed = releases.Submission(terms, self._sign(submitter, submission_message(terms)))
        with self._sessions.begin() as session:
            release = releases.submit(
                session, tenant=TENANT, actor=submitter, name="demo", sources=sources, options=options, signed=signed
            )
        self._say(f"{submitter} submits {number_of(len(sources), 'photograph')}, signed, as release {str(release)[:8]}")
        note = "the release worker loads the networks and replaces faces: up to a minute on two cores"
        self._console.print(f"    [dim]{note}[/]", highlight=False, soft_wrap=True)
        with self._console.status("replacing faces"):
            for progress in releases.wait(self._sessions, release, timeout=RELEASE_SECONDS):
                now = progress
                self._check_alive("release")
        if now.ended < now.total:
            raise DemoFailed(f"the release did not finish in {RELEASE_SECONDS:.0f} s: {self._log('release')}")
        self._result.release_seconds = time.monotonic() - started
        with self._sessions() as session:
            stems = apart(source.relative_name for source in sources)
            for source, stem, entry in zip(sources, stems, releases.report(session, release), strict=True):
                self._result.photographs.append(
                    Photograph(
                        name=str(entry["name"]),
                        stem=stem,
                        source=path_of(source.uri),
                        item=UUID(entry["item"]),
                        state=ItemState(entry["state"]),
                        reason=entry["reason"] or entry["error_code"],
                        report=entry,
                        stego_psnr=entry["stego_psnr"],
                        size_bytes=entry["size_bytes"],
                    )
                )
        counts = ", ".join(f"{count} {state.value}" for state, count in now.items.items())
        self._say(f"released in {self._result.release_seconds:.1f} s, the networks' loading included: {counts}")
        return release

    def _done(self) -> list[Photograph]:
        return [photograph for photograph in self._result.photographs if photograph.state is ItemState.DONE]

    def _publish(self) -> None:
        """Fetch the released files from the bucket, as their recipients would."""
        folder = self._out / "released"
        for photograph in self._done():
            with self._sessions() as session:
                item = session.get_one(Item, photograph.item)
                key, suffix = str(item.object_key), Path(str(item.object_key)).suffix
            photograph.released = folder / f"{photograph.stem}{suffix}"
            photograph.released.parent.mkdir(parents=True, exist_ok=True)
            photograph.released.write_bytes(self._storage.get(self._settings.bucket_releases, key))
        self._say(f"fetched {number_of(len(self._done()), 'released file')} from storage")

    def _recover(self, release: UUID) -> None:
        """Ask for every face, have two people approve, let custodian and recovery worker do theirs, fetch once."""
        faces = [FaceRef(one.item, face["index"]) for one in self._done() for face in one.report["faces"]]
        if not faces:
            self._say("no face was released, so none is asked for")
            return
        grounds = recoveries.Grounds(
            reason="demonstration", legal_basis="consent", case_reference="DEMO-1", purpose="to see the faces again"
        )
        _, requester, *approvers = PEOPLE
        with self._sessions.begin() as session:
            terms = recoveries.draft_request(
                session, release_id=release, requester=requester, grounds=grounds, faces=faces
            )
            recoveries.open_request(session, terms, self._sign(requester, request_message(terms.sha256())))
        self._say(f"{requester} asks for {number_of(len(faces), 'face')} back; {terms.quorum} approvals are needed")
        try:
            self._approve(terms.id, requester)
        except OwnRequest:
            self._result.refusals.append("approving one's own request")
        for approver in approvers:
            self._approve(terms.id, approver)
            self._say(f"{approver} approves with a signature")
        with self._console.status("the custodian checks the signatures, the recovery worker reads the released files"):
            recovery = self._await_recovery(terms.id)
        leave = self._sign(requester, fetch_message(terms.sha256(), recovery))
        with self._sessions.begin() as session:
            sealed = recoveries.fetch(session, recovery, requester, leave)
        self._unseal(recovery, sealed, self._people[requester].of(keys.KeyType.X25519).secret())
        try:
            with self._sessions.begin() as session:
                recoveries.fetch(session, recovery, requester, leave)
        except NothingToFetch:
            self._result.refusals.append("fetching a second time")
        self._say(
            f"fetched {number_of(len(sealed), 'face')}, opened with {requester}'s key; refused: {', '.join(self._result.refusals)}"
        )

    def _approve(self, request: UUID, approver: str) -> RequestState:
        with self._sessions.begin() as session:
            terms = recoveries.load_terms(session, request)
            signature = self._sign(approver, decision_message(Decision.APPROVE, terms.sha256()))
            return decisions.approve(session, request, approver, Signed(signature))

    def _sign(self, person: str, message: bytes) -> bytes:
        return self._people[person].of(keys.KeyType.ED25519).sign(message)

    def _await_recovery(self, request: UUID) -> UUID:
        final = (RecoveryState.RECOVERED, RecoveryState.FAILED, RecoveryState.EXPIRED)
        deadline = time.monotonic() + RECOVERY_SECONDS
        while time.monotonic() < deadline:
            with self._sessions() as session:
                recovery = recoveries.find_recovery(session, request)
            if recovery is not None and recovery.state in final:
                if recovery.state is not RecoveryState.RECOVERED:
                    raise DemoFailed(f"the recovery failed: {recovery.error_code}; {self._log('recovery')}")
                return recovery.id
            self._check_alive("custodian", "recovery")
            time.sleep(0.5)
        raise DemoFailed(f"no recovery in {RECOVERY_SECONDS:.0f} s: {self._log('custodian')}")

    def _unseal(self, recovery: UUID, sealed: list[recoveries.SealedFace], private: bytes) -> None:
        by_item = {photograph.item: photograph for photograph in self._done()}
        for face in sealed:
            photograph = by_item[face.item]
            path = self._out / "recovered" / f"{photograph.stem}.face{face.face}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(open_sealed(private, face.sealed, face_info(recovery, face.item, face.face)))
            photograph.recovered[face.face] = path

    def _export(self, release: UUID) -> None:
        with self._sessions.begin() as session:
            export = exports.export_release(session, release, "demo")
        with self._console.status("the export is written"):
            done = fetching.wait(self._sessions, export, timeout=EXPORT_SECONDS)
        folder = self._out / "export" / str(export)[:8]
        names = fetching.fetch(self._storage, self._settings.bucket_exports, done, folder).names
        self._result.export_files = len(names)
        self._say(f"exported: {number_of(len(names), 'file')}, every checksum right")

    def _report(self, release: UUID) -> None:
        sha256 = reporting.wait(self._sessions, release, timeout=EXPORT_SECONDS)
        parts = reporting.read(self._storage, self._settings.bucket_releases, release, sha256)
        for name, content in parts.items():
            (self._out / name).write_bytes(content)
        self._result.risk_report = self._out / reporting.PAGE
        self._say("fetched the release's risk report, whose hash stands in the trail")

    def _verify(self) -> None:
        """Wait until the notary has anchored what we did, derive the whole trail again, and hold every table against it."""
        public = keys.load_verifier(self._home.key("audit.public.json"))
        custodian = keys.load_verifiers(self._home.key("ticket.public.json"))
        anchors = Anchors(self._storage, self._settings.bucket_anchors)
        wanted: int | None = None
        deadline = time.monotonic() + 60
        while True:
            with self._sessions() as session:
                found = verify(session, anchors, HeadVerifier(public.id, public.public))
                crosscheck(session, found, load_roster(self._home.key("roster.json")), custodian)
            wanted = found.events if wanted is None else wanted
            if found.anchored_to >= wanted or time.monotonic() > deadline:
                break
            time.sleep(1.0)
        self._result.verification = found
        verdict = "holds" if found.ok else f"[red]does not hold[/]: {found.findings[0].words}"
        self._say(
            f"audit trail of {found.events} events {verdict}; anchored under Object Lock up to {found.anchored_to}"
        )

    def _check_alive(self, *processes: str) -> None:
        """A process that keeps dying will not answer: say so instead of waiting."""
        for process in processes:
            if self._system.failures(process) >= 4:
                raise DemoFailed(f"the {process} process keeps ending: {self._log(process)}")
        log = self._home.logs / "release.log"
        if log.exists() and "core_not_loaded" in log.read_text(errors="replace"):
            raise DemoFailed(f"the release worker cannot load the networks: {self._log('release')}")

    def _log(self, process: str) -> str:
        return f"see {self._home.logs / f'{process}.log'}"
