"""A page to try a run of any kind on: recommendations for whoever is described at its side, and the run's figures.

    pip install -e '.[demo]'
    streamlit run scripts/demo.py -- --run checkpoints/autoint_plus_ml1m

Streamlit runs this file from the top whenever something on the page changes; what ``load`` returns outlives that. The
controls are those of the fields of a query that the run reads, and of what it can do.
"""

from __future__ import annotations

import datetime
import json
import re
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st

from jaxrec import Answer, Query, Recommender, UserError
from jaxrec.cli import runtime
from jaxrec.cli.command import Parser
from jaxrec.data.dataset import Field
from jaxrec.plots.pictures import attention_figure
from jaxrec.run import Run, open_run_data
from jaxrec.tasks.query import shown_time

LISTED = 20_000  # users or items; of more only the one that is typed is sent to the browser
FILTERED = 40  # values of a field that is offered as a filter
FORMATS: dict[type, str] = {int: "%d", float: "%.6g"}  # of columns: ids and years have no separators
KEEP: dict[str, Any] = {"persist_state": "session"}  # what is chosen, while the other page is shown
OCCUPATIONS = """other, academic or educator, artist, clerical or admin, college or grad student, customer service,
doctor or health care, executive or managerial, farmer, homemaker, K-12 student, lawyer, programmer, retired,
sales or marketing, scientist, self-employed, technician or engineer, tradesman or craftsman, unemployed, writer"""
AGES = {1: "under 18", 18: "18 to 24", 25: "25 to 34", 35: "35 to 44", 45: "45 to 49", 50: "50 to 55", 56: "over 55"}
LEGENDS = {  # what values stand for, by source and field
    "movielens": {
        "gender": {"F": "female", "M": "male"},
        "age": {str(age): text for age, text in AGES.items()},
        "occupation": {str(code): text for code, text in enumerate(re.split(r",\s", OCCUPATIONS))},
    }
}


@st.cache_resource(show_spinner="Loading the model …")
def load(path: str) -> Recommender:
    """Load a run once for all visitors."""
    runtime.start()
    return Recommender.load(path)


def plain(text: str) -> str:
    """Text that Streamlit shows as it is: what a path or a value holds is no markup."""
    return re.sub(r"([!-+.:-@[-`{-~-])", r"\\\1", text)


def label(name: str) -> str:
    return name.replace("_", " ").capitalize()


def meaning(run: Run, name: str, value: Any) -> str:
    """A value of a field in words."""
    if isinstance(value, list):
        return ", ".join(meaning(run, name, one) for one in value)
    text = "unknown" if value is None else str(value)
    return LEGENDS.get(str(run.manifest.get("source")), {}).get(name, {}).get(text, text)


def shown(run: Run, known: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of an item, as columns of a table."""
    bags = {field["name"] for field in run.manifest.get("fields", ()) if field["kind"] == "bag"}
    return {label(name): str(value or "").replace("|", ", ") if name in bags else value
            for name, value in known.items()}  # fmt: skip


def named(run: Run, known: Mapping[str, Any], item: Any) -> str:
    """An item by its id, and the first text that is known of it and no field, such as a title."""
    fields = {field["name"] for field in run.manifest.get("fields", ())}
    title = next((value for name, value in known.items() if isinstance(value, str) and name not in fields), "")
    return f"{title} · {item}" if title else str(item)


def table(rows: Sequence[Mapping[str, Any]], **columns: Any) -> None:
    kinds = {name: type(value) for row in rows for name, value in row.items() if type(value) in FORMATS}
    numbers = {name: st.column_config.NumberColumn(format=FORMATS[kind]) for name, kind in kinds.items()}
    st.dataframe(list(rows), column_config=numbers | columns, hide_index=True)


def choose_session(r: Recommender) -> tuple[Query, list[Any], list[Any]]:
    """A session of the catalogue's items, or one of the test split; what came next; and what to show of it."""
    kinds = ["Pick items", "A session of the test split"]
    if Path(r.run.config.data.path).is_dir() and st.radio("Session", kinds, key="who", **KEEP) == kinds[1]:
        data: Any = open_run_data(r.run, r.run.config.data.path)
        sessions = data.split("test")
        number = st.number_input("Number", 1, max(1, len(sessions)), key="session", **KEEP)
        part = slice(int(sessions.offsets[number - 1]), int(sessions.offsets[number]))
        *items, following = r.kind.items.ids.decode(np.asarray(sessions.items[part]))
        return Query(items), [following], []
    ids = r.kind.items.ids.decode(np.arange(r.n_items))
    text = f"{len(ids):,} items, the most popular first; type to search"
    if len(ids) <= LISTED:
        return Query(st.multiselect("Clicked, oldest first", ids, ids[:1], key="items", help=text, **KEEP)), [], []
    return Query(st.text_input("Clicked, oldest first", str(ids[0]), key="items", help=text, **KEEP).split()), [], []


def choose_events(r: Recommender) -> tuple[Query, list[Any], list[Any]]:
    """A sequence that the run keeps, or one of the visitor's; and what came next."""
    kinds = ["One of the data", "My own"]
    own = st.radio("Sequence", kinds, key="who", **KEEP) == kinds[1]
    if own:
        st.caption("An item by its id, or anything by its name, such as one of a listing that is not there.")
        empty = {"item": [""], "name": [""], "event": [r.kind.types[0]]}
        types = st.column_config.SelectboxColumn(options=list(r.kind.types), required=True, default=r.kind.types[0])
        rows = st.data_editor(empty, num_rows="dynamic", column_config={"event": types}, key="events")
        given = [dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)]
        events = [{name: value for name, value in row.items() if value} for row in given]
        past, following = [row for row in events if len(row) > 1], []
    else:
        *past, last = r.example(int(st.number_input("Number", 0, 9999, 1, key="seed", **KEEP)))
        following = [last["item"]]
    newest = past[-1]["time"] if past and not own and r.kind.live else None
    time = shown_time(r.kind.time(newest))
    at = st.text_input("Only what is live at", time, key=f"at {newest}") if r.kind.live else None
    fields = ("item", "event", "name") if own else ("item", "event")
    query = Query(events=[{name: one[name] for name in fields if name in one} for one in past], at=at)
    return query, following, [] if own else past


def choose_user(r: Recommender) -> tuple[Query, list[Any], list[Any]]:
    """A user of the data or somebody new, and the occasion."""
    kinds, users = ["A known user", "Somebody new"], r.kind.people.users
    ids = [] if users is None else users.items.ids.values()
    new = not ids or st.radio("Who", kinds, key="who", **KEEP, horizontal=True) == kinds[1]
    user, text = None, f"{len(ids):,} users; type an id to search"
    if not new and len(ids) <= LISTED:
        user = st.selectbox("User", ids, key="user", help=text, **KEEP)
    elif not new:
        user = st.text_input("User", str(ids[0]), key="user", help=text, **KEEP) or ids[0]
    schema, calendar = r.run.schema, r.run.manifest["calendar"]
    asked = [field for field in schema.fields if new and field.side == "user" and field.name != schema.user]
    asked += [field for field in schema.fields if field.side == "context" and field.name not in calendar]
    answers = {field.name: choose_value(r, field) for field in asked}
    at = None
    if "at" in r.reads and any(field.name in calendar for field in schema.fields):
        last = datetime.datetime.fromtimestamp(int(r.run.kept("last_time")[0]), datetime.UTC).date()
        ends = datetime.date(1900, 1, 1), datetime.date(2100, 12, 31)
        at = st.date_input("Date", last, *ends, key="date", format="YYYY-MM-DD", **KEEP)
    profile = {name: value for name, value in answers.items() if value not in (None, [])}
    return Query(user=user, profile=profile, at=at), [], []


def choose_value(r: Recommender, field: Field) -> Any:
    """A value of a field of the user or the occasion; None where it is left open."""
    name, more = label(field.name), KEEP | {"key": f"field {field.name}"}
    if field.kind == "numerical":
        return st.number_input(name, value=None, placeholder="unknown", **more)
    none = "usual" if field.side == "context" else "unknown"
    more["format_func"] = partial(meaning, r.run, field.name)
    values = r.kind.codes.vocabulary(field.name).values()
    if field.kind == "bag":
        return st.multiselect(name, values, max_selections=field.width, placeholder=none, **more)
    return st.selectbox(name, values, index=None, placeholder=none, **more)


def choose_filter(r: Recommender) -> str | None:
    """A filter: of values of the item's fields, or in words."""
    if "user" not in r.reads:
        return st.text_input("Filter", key="filter", placeholder="price <= 50 and c0_name = 'Men'", **KEEP) or None
    fields = [field for field in r.run.schema.coded if field.side == "item" and field.name != r.run.schema.item]
    fields.sort(key=lambda field: field.kind != "bag")  # those first: all genres say more than the first one
    wanted = []
    for field in fields:
        if 1 < field.size - 1 <= FILTERED:
            values, say = r.kind.codes.vocabulary(field.name).values(), partial(meaning, r.run, field.name)
            more = KEEP | {"key": f"only {field.name}", "format_func": say, "placeholder": "any"}
            chosen = st.multiselect(label(field.name), values, **more)
            texts = [repr(one) if isinstance(one, int) else "'" + str(one).replace("'", "''") + "'" for one in chosen]
            wanted += [f'"{field.name}" in ({", ".join(texts)})'] if texts else []
    return " and ".join(wanted) or None


def show_recommendations(r: Recommender) -> None:
    with st.sidebar:
        choose = choose_user if "user" in r.reads else choose_events if "events" in r.reads else choose_session
        query, following, past = choose(r)
        only = choose_filter(r) if "filter" in r.can else None
        most = max(1, min(50, r.n_items))
        k = st.slider("How many", 1, most, min(10, most), key="k", **KEEP) if most > 1 else 1
        rules = "rules" not in r.can or st.toggle("Rules of the shop", True, key="rules", **KEEP)
        seen = st.toggle("Also what the user has", False, key="seen", **KEEP)
    st.title("Recommendations", anchor=False)
    show_who(r, query)
    try:
        answer = r.recommend(query, k, only=only, rules=rules, seen=seen)
    except UserError as error:  # such as a filter that leaves nothing
        st.info(plain(str(error)))
        return
    for note in answer.notes:
        st.warning(plain(note))
    if answer.items:
        show_answer(r, answer)
    if past:
        with st.expander(f"What happened before: {len(past)} events"):
            table([{label(name): value for name, value in one.items() if name != "time"} for one in past])
    for item in following:
        rank = next((f"place {n}" for n, one in enumerate(answer.items, 1) if one.id == item), "not in the list")
        st.markdown(f"What came next: **{plain(str(item))}**, {rank}.")
    if "user" in r.reads:
        show_past(r, query)
    if not answer.items:
        return
    names = {one.id: named(r.run, one.known, one.id) for one in answer.items}
    if "similar" in r.can:
        show_similar(r, names)
    if "similar_users" in r.can:
        with st.expander("Customers like this one"):
            table([{"Customer": one.id, "Similarity": one.score} | shown(r.run, one.known)
                   for one in r.similar_users(query, 10).items])  # fmt: skip
    if "explain" in r.can:
        explain(r, query, names)


def show_who(r: Recommender, query: Query) -> None:
    """What is known of who asks."""
    if "user" in r.reads:
        new = query.user is None
        index = np.array([r.kind.people.index(query.user)])
        known = dict(query.profile) if new else r.kind.people.users.items.known(index)[0]
        facts = " · ".join(f"{label(name).lower()} {meaning(r.run, name, value)}" for name, value in known.items())
        who = "Somebody new" if new else plain(f"User {query.user}")
        st.markdown(f"**{who}**: {plain(facts) or 'nothing known'}")
    elif query.items:
        st.markdown(f"**Clicked**: {plain(' → '.join(map(str, query.items)))}")


def show_answer(r: Recommender, answer: Answer) -> None:
    run, name = r.run, label(str(r.run.schema.item)) if "user" in r.reads else "Item"
    chances = getattr(r.kind, "score_name", "score") == "probability"
    score = "Probability" if chances else "Events" if answer.popular else "Score"
    rows = [  # the score stands first: there a narrow window shows it
        {score: 100 * one.score if chances else float(one.score), **shown(run, one.known), f"{name} id": one.id}
        | ({"Rules": "; ".join(one.why)} if "rules" in r.can else {})
        for one in answer.items
    ]
    bar = st.column_config.ProgressColumn(format="%.1f%%", min_value=0, max_value=100, color="blue")
    table(rows, **({"Probability": bar} if chances else {}))
    text = f"Probability of a rating of {run.schema.threshold:g} or more, by" if chances else "By"
    live = f", of what is live at {shown_time(answer.at)}" if answer.at is not None else ""
    st.caption(plain(f"{text} {run.path.name}{live}."))


def show_past(r: Recommender, query: Query) -> None:
    """What the user has in the data."""
    items, labels = r.kind.people.past.seen(r.kind.people.index(query.user))
    if len(items):
        with st.expander(f"Seen before: {len(items):,}, the latest first"):
            known, rated = r.kind.items.known(items), not np.isin(labels, (0, 1)).all()
            ids = map(str, r.kind.items.ids.decode(items))
            past = [({"Rating": float(one)} if rated else {}) | shown(r.run, row) | {"Id": item}
                    for one, row, item in zip(labels, known, ids, strict=True)][::-1]  # fmt: skip
            table(past, Rating=st.column_config.NumberColumn(format="%g", width="small"))


@st.fragment  # another item to compare with changes nothing above
def show_similar(r: Recommender, names: Mapping[Any, str]) -> None:
    with st.expander("Similar items"):
        item = st.selectbox("To", list(names), format_func=names.__getitem__)
        try:
            found = r.similar(item, min(10, r.n_items)).items
            table([{"Similarity": one.score, **shown(r.run, one.known), "Id": one.id} for one in found])
        except UserError as error:  # one without a name
            st.info(plain(str(error)))


@st.fragment
def explain(r: Recommender, query: Query, names: Mapping[Any, str]) -> None:
    """What the prediction for one of the items attended to."""
    st.subheader("Why this one?", anchor=False)
    item = st.selectbox(label(str(r.run.schema.item)), list(names), format_func=names.__getitem__)
    with st.spinner("Drawing …"):
        found = r.explain(query, item)
        st.markdown(f"Probability **{found.probability:.1%}**. Each row shows which fields that field draws from.")
        if not found.weights:
            st.info("This model has no interacting layers (model.blocks 0), so there is no attention to draw.")
            return
        figure = attention_figure(found.fields, found.values, found.weights, names[item])
        st.pyplot(figure, alt="attention weights; as text below")
    with st.expander("As text"):
        st.code(found.text(), language=None)


def show_run(r: Recommender) -> None:
    run = r.run
    st.title("Run", anchor=False)
    st.caption(plain(f"{run.path}: {run.config.model.name} on {run.manifest.get('source')}"))
    show_picture(run.path / "learning_curve.png", "Learning curve: training loss and validation metric by epoch")
    for file in sorted(run.path.glob("eval-*.json")):
        show_metrics(run, file)
    with st.expander("Configuration"):
        st.code((run.path / "config.yaml").read_text(encoding="utf-8"), language="yaml")


def show_metrics(run: Run, file: Path) -> None:
    """What ``jaxrec.evaluate`` wrote of one split."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        st.subheader(f"{label(found['split'])} split", anchor=False)
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{file}: damaged; write it again with python -m jaxrec.evaluate") from None

    def metrics(found: Mapping[str, Any]) -> dict[str, float]:
        return {
            name: one for name, one in found.items() if type(one) in FORMATS and name not in ("seconds", "positive")
        }

    models = {run.path.name: found} | found.get("baselines", {})
    table([{"Model": name} | metrics(one) for name, one in models.items()])
    groups = {name: parts for name, parts in found.get("groups", {}).items() if isinstance(parts, dict)}
    for tab, (name, parts) in zip(st.tabs(list(map(label, groups))) if groups else (), groups.items(), strict=True):
        with tab:
            table([{"Group": meaning(run, name, value), **metrics(one)} for value, one in parts.items()])
    show_picture(file.with_name(f"{file.stem}-reliability.png"), "Reliability: observed click rates over predicted")


def show_picture(file: Path, text: str) -> None:
    if file.is_file():
        st.image(str(file), caption=text, alt=text, width=600)


def main(argv: Sequence[str]) -> None:
    st.set_page_config("jaxrec", layout="wide")
    try:
        parser = Parser(prog="streamlit run scripts/demo.py --", add_help=False)
        parser.add_argument("--run", required=True, metavar="DIR")
        recommender = load(parser.parse_args(argv).run)
        pages = {"Recommendations": show_recommendations, "Run": show_run}
        st.navigation([st.Page(partial(page, recommender), title=title, url_path=title.lower())
                       for title, page in pages.items()]).run()  # fmt: skip
    except UserError as error:
        st.error(plain(str(error)))


if __name__ == "__main__":
    main(sys.argv[1:])
