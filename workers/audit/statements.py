"""How a table is held against the trail in one statement, whatever the events' values are: who stole a role writes what they like
into an event, and no value may stop a statement, for that would hide everything else that it compares.

So nothing here casts what it has not looked at. A value of a wrong type counts as none, and `workers.audit.comparisons` names its event.
"""

# ruff: noqa: S608  the statements are put together from the program's own words alone

from __future__ import annotations

from dataclasses import dataclass

from schemas.audit import AuditEvent as Tag

_HALF = 1 << 62  # of what a bigint holds
_STRING = r'"(\\.|[^"\\])*"'
_MOST_OPENED = 1_000  # brackets: PostgreSQL follows some 5,000 levels, and fails where there are more
_BYTE = "[89ab][0-9a-f]"
# Well-formed UTF-8 without a zero byte (RFC 3629), in hex: PostgreSQL cannot ask that of bytes without failing where they are not.
_UTF8 = (
    f"^((0[1-9a-f]|[1-7][0-9a-f])|(c[2-9a-f]|d[0-9a-f]){_BYTE}|e0[ab][0-9a-f]{_BYTE}|(e[1-9a-cef])({_BYTE}){{2}}|ed[89][0-9a-f]{_BYTE}"
    f"|f0[9ab][0-9a-f]({_BYTE}){{2}}|f[1-3]({_BYTE}){{3}}|f48[0-9a-f]({_BYTE}){{2}})*$"
)


@dataclass(frozen=True)
class Comparison:
    """One statement, and the name of what it compares. `careful` takes ten times as long, and passes events over that cannot be read."""

    name: str
    sql: str
    careful: str


def compare(
    name: str, events: tuple[Tag, ...], place: str, source: str, *cases: str, alone: tuple[str, ...] = ()
) -> Comparison:
    """`source` is a FROM clause over `told AS t`; each of `cases` (`condition THEN words`) that is true is a finding of its own. The first
    of `alone` that is true is the only one: nothing else could be held against what is not there.

    The place says what is wrong, and so what becomes of it (`workers.audit.acknowledged`): `event 7` where that event is, which nobody
    can take away; a row where it can be put right, as the trail tells it.
    """
    one = " ".join("WHEN {} THEN ARRAY[{}]".format(*_case(each)) for each in alone)
    every = ", ".join("CASE WHEN {} THEN {} END".format(*_case(each)) for each in cases)
    words = f"array_remove(ARRAY[{every}]::text[], NULL)"
    words = f"CASE {one} ELSE {words} END" if alone else words
    inner = f"SELECT coalesce({place}, '{name}') AS place, {words} AS words FROM {source}"
    # Materialized, or a LIMIT behind it would make the planner look for the first few rows among all pairs.
    found = (
        f"found AS MATERIALIZED (SELECT place, each FROM ({inner}) AS judged CROSS JOIN LATERAL unnest(words) AS each)"
    )
    plain, careful = (f"{_told(events, how)}, {found} SELECT place, each AS words FROM found" for how in (False, True))
    return Comparison(name, plain, careful)


def _case(case: str) -> tuple[str, str]:
    """Its condition, and its words, which are never NULL: they may repeat what an event has not got."""
    condition, _, words = case.rpartition(" THEN ")
    return condition, f"coalesce({words}, 'it is not as the trail says')"


def _told(events: tuple[Tag, ...], careful: bool) -> str:
    """The CTE `told`: what these events say, a column a field. `doubted`: its signer did not sign it, which is found for itself; by `rank`
    such events come after all others.
    """
    kinds = ", ".join(f"'{event.value}'" for event in events)
    fields = "convert_from(e.canonical, 'UTF8')::jsonb -> 'fields'"
    if careful:
        fields = f"({json_of('e.canonical')}) -> 'fields'"
        fields = f"CASE WHEN jsonb_typeof({fields}) = 'object' THEN {fields} ELSE '{{}}' END"
    doubted = "e.seq = ANY (CAST(:doubted AS bigint[]))"
    return (
        f"WITH told AS MATERIALIZED (SELECT e.seq, e.at, e.event, {doubted} AS doubted, "
        f"CASE WHEN {doubted} THEN least(e.seq, {_HALF - 1}) + {_HALF} ELSE e.seq END AS rank, f.* FROM audit.events AS e "
        f"CROSS JOIN LATERAL jsonb_to_record({fields}) "
        "AS f (actor text, release text, item text, request text, ticket text, recovery text, subject text, model_version text, "
        f"request_hash text, detail jsonb) WHERE e.event IN ({kinds}))"
    )


def first(*key: str) -> str:
    """For a FROM clause: of the events of `told` with one key (expressions over `t`) the first, which a row is held against; what somebody
    adds later does not change what happened. Those without a key stand for themselves.
    """
    none = " OR ".join(f"{each} IS NULL" for each in key)
    ranks = f"SELECT min(t.rank) AS rank FROM told AS t GROUP BY {', '.join(key)}, CASE WHEN {none} THEN t.seq END"
    return f"(SELECT t.* FROM told AS t JOIN ({ranks}) AS f ON f.rank = t.rank)"


def row(kind: str, name: str, said: str, true: str = "NOT t.doubted") -> str:
    """The place of a row that events with a signature tell of: where the row is gone, it is what `said` names, and to be put right, for the
    event is `true`.
    """
    return f"coalesce('{kind} ' || {name}, CASE WHEN {true} THEN '{kind} ' || {said} END, 'event ' || t.seq)"


def json_of(value: str) -> str:
    """These bytes (an expression) as jsonb; NULL where they are none, or have more brackets than anything of ours."""
    words = f"convert_from({value}, 'UTF8')"
    outside = f"regexp_replace({words}, '{_STRING}', '', 'g')"
    opened = f"length({outside}) - length(translate({outside}, '[{{', ''))"
    valid = f"CASE WHEN pg_input_is_valid({words}, 'jsonb') THEN {words}::jsonb END"
    shallow = f"CASE WHEN {opened} <= {_MOST_OPENED} THEN {valid} END"
    return f"CASE WHEN encode({value}, 'hex') ~ '{_UTF8}' THEN {shallow} END"


def cast(value: str, wanted: str) -> str:
    """This text (an expression) as the type `wanted`; NULL where it is none."""
    return f"CASE WHEN pg_input_is_valid({value}, '{wanted}') THEN ({value})::{wanted} END"


def number(name: str) -> str:
    """The integer of this name in the detail of `t`; NULL where there is none."""
    value = f"t.detail ->> '{name}'"
    return f"({cast(value, 'bigint')})"


def elements(name: str) -> str:
    """The elements of the list of this name in the detail of `t`, as texts, for a FROM clause; none where it is no list."""
    value = f"t.detail -> '{name}'"
    return f"jsonb_array_elements_text(CASE WHEN jsonb_typeof({value}) = 'array' THEN {value} ELSE '[]' END)"


WHOLE, TRUTH, WHOLES, LIST = "integer", "true or false", "list of integers", "list"


def shapes(name: str, expected: dict[Tag, dict[str, str]]) -> Comparison:
    """Each value in an event's detail that has not the type that it should have; what is not there has no type."""
    rows = [(event.value, "detail", "object") for event in expected]
    rows += [(event.value, field, kind) for event, fields in expected.items() for field, kind in fields.items()]
    values = ", ".join(f"('{event}', '{field}', '{kind}')" for event, field, kind in rows)
    whole = "(jsonb_typeof({0}) = 'number' AND {0}::text ~ '^-?[0-9]{{1,18}}$')"
    any_element = "EXISTS (SELECT FROM jsonb_array_elements(CASE WHEN jsonb_typeof(v.value) = 'array' THEN v.value ELSE '[]' END) AS each"
    right = (
        f"CASE s.kind WHEN '{WHOLE}' THEN {whole.format('v.value')} WHEN '{TRUTH}' THEN jsonb_typeof(v.value) = 'boolean' "
        f"WHEN '{WHOLES}' THEN jsonb_typeof(v.value) = 'array' AND NOT {any_element} WHERE NOT {whole.format('each')}) "
        f"WHEN '{LIST}' THEN jsonb_typeof(v.value) = 'array' ELSE jsonb_typeof(v.value) = 'object' END"
    )
    return compare(
        name,
        tuple(expected),
        "'event ' || t.seq",
        f"told AS t JOIN (VALUES {values}) AS s (event, field, kind) ON s.event = t.event CROSS JOIN LATERAL "
        "(SELECT CASE s.field WHEN 'detail' THEN t.detail ELSE t.detail -> s.field END AS value) AS v",
        f"v.value IS NOT NULL AND NOT {right} THEN t.event || ' is of a wrong type, its ' || s.field || ' is no ' || s.kind",
    )
