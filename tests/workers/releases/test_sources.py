"""Which images a submission names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.releases import sources
from workers.releases.errors import ManifestInvalid, NothingToSubmit, SourceMissing, SourceRefused, SourceTooLarge
from workers.releases.sources import Source


def _names(found: list[Source]) -> list[str]:
    return [source.relative_name for source in found]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.JPG", "a.png", "deep/er/c.webp", ".hidden/x.png", "notes.txt", "deep/d.heic"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def test_a_folder_gives_its_images_in_order(folder: Path) -> None:
    assert _names(sources.collect([str(folder)])) == ["a.png", "b.JPG", "deep/d.heic", "deep/er/c.webp"]


def test_what_is_named_twice_is_taken_once(folder: Path) -> None:
    found = sources.collect([str(folder / "a.png"), str(folder), str(folder / "*.png")])
    assert _names(found) == ["a.png", "b.JPG", "deep/d.heic", "deep/er/c.webp"]


def test_a_named_file_is_taken_whatever_it_is_called(folder: Path) -> None:
    assert _names(sources.collect([str(folder / "notes.txt")])) == ["notes.txt"]


def test_a_glob(folder: Path) -> None:
    assert _names(sources.collect([str(folder / "**" / "*.webp")])) == ["c.webp"]


@pytest.mark.parametrize("missing", ["nothing-here", "*.gif", "empty"])
def test_nothing_to_submit(missing: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NothingToSubmit):
        sources.collect([str(tmp_path / missing)])


def test_manifests(folder: Path) -> None:
    (folder / "m.jsonl").write_text('{"path": "a.png"}\n\n{"path": "deep/d.heic", "name": "second"}\n')
    (folder / "m.csv").write_text("path,name\nb.JPG,\ndeep/er/c.webp,last\n")
    assert _names(sources.collect([str(folder / "m.jsonl")])) == ["a.png", "second"]
    assert _names(sources.collect([str(folder / "m.csv")])) == ["b.JPG", "last"]


def test_a_manifest_may_say_whom_an_image_shows(folder: Path) -> None:
    (folder / "m.jsonl").write_text('{"path": "a.png", "subject": " anna "}\n{"path": "b.JPG", "subject": ""}\n')
    (folder / "m.csv").write_text("path,name,subject\ndeep/er/c.webp,last,berta\ndeep/d.heic,,\n")
    found = sources.collect([str(folder / "m.jsonl"), str(folder / "m.csv"), str(folder)])
    assert [source.subject for source in found] == ["anna", None, "berta", None]
    assert "anna" not in repr(found) and "berta" not in repr(found)
    later = sources.collect([str(folder / "a.png"), str(folder / "m.jsonl")])
    assert [source.subject for source in later] == ["anna", None], "the file was named before its manifest"


@pytest.mark.parametrize(
    "lines",
    [
        '{"path": "a.png", "subject": 7}',
        '{"path": "a.png", "subject": "%s"}' % ("x" * 201),
        r'{"path": "a.png", "subject": "two\nlines"}',
        r'{"path": "a.png", "subject": "\ud800"}',
        '{"path": "a.png", "subject": "anna"}\n{"path": "a.png", "subject": "berta"}',
    ],
)
def test_a_subject_that_cannot_be(lines: str, folder: Path) -> None:
    (folder / "m.jsonl").write_text(lines + "\n")
    with pytest.raises(ManifestInvalid) as refused:
        sources.collect([str(folder / "m.jsonl")])
    assert "anna" not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    ["{", '{"file": "a.png"}', '{"path": 3}', "[]", '{"path": ""}', r'{"path": "\ud800"}', r'{"path": "\u0000"}'],
)
def test_a_bad_manifest(text: str, tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text(text + "\n")
    with pytest.raises(ManifestInvalid):
        sources.collect([str(tmp_path / "m.jsonl")])


def test_a_source_is_neither_shown_nor_followed_out_of_its_root(folder: Path) -> None:
    root = folder / "deep"
    inside = Source.of_file(root / "d.heic", "anna.heic")
    assert "anna" not in repr(inside) and "d.heic" not in repr(inside)
    assert sources.read(inside.uri, [root], None, "b", 10) == b"x"  # type: ignore[arg-type]
    (root / "out.png").symlink_to(folder / "a.png")
    for uri in (
        f"file://{root}/out.png",
        f"file://{root}/../a.png",
        "file://elsewhere/x.png",
        "s3://other/x",
        "data:,x",
    ):
        with pytest.raises(SourceRefused):
            sources.read(uri, [root], None, "b", 10)  # type: ignore[arg-type]
    with pytest.raises(SourceMissing):
        sources.read(f"file://{root}/gone.png", [root], None, "b", 10)  # type: ignore[arg-type]
    with pytest.raises(SourceTooLarge):
        sources.read(inside.uri, [root], None, "b", 0)  # type: ignore[arg-type]


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=60))
def test_any_file_name_survives_its_uri(name: str) -> None:
    path = Path("/photographs") / ("x" + name)
    assert sources.path_of(Source.of_file(path, name).uri) == path


def test_a_file_name_that_is_not_utf8(tmp_path: Path) -> None:
    bad = tmp_path / os.fsdecode(b"caf\xe9.png")
    bad.write_bytes(b"x")
    (tmp_path / "good.png").write_bytes(b"y")
    first, second = sources.collect([str(tmp_path)], [tmp_path])
    assert (first.relative_name, second.relative_name) == ("caf?.png", "good.png")
    assert sources.path_of(first.uri) == bad
    assert sources.read(first.uri, [tmp_path], None, "b", 10) == b"x"  # type: ignore[arg-type]
    for told in (first.uri, first.relative_name):
        assert told.encode()  # as the database takes it


@pytest.mark.parametrize("roots", [[], ["elsewhere"]])
def test_what_the_workers_would_refuse_is_refused_at_once(roots: list[str], folder: Path) -> None:
    with pytest.raises(SourceRefused, match=r"refacex up --source FOLDER.*--upload"):
        sources.collect([str(folder)], [folder / root for root in roots])
    assert sources.collect([str(folder)], [folder]) == sources.collect([str(folder)], None)
