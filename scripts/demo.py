"""A page to try a click model's run on: recommendations for a user of the data or somebody new, and the run's figures.

    pip install -e '.[demo]'
    streamlit run scripts/demo.py -- --run checkpoints/autoint_plus_ml1m

Streamlit runs this file from the top whenever something on the page changes; what ``load`` returns outlives that.
"""

from __future__ import annotations

import datetime
import json
import re
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import streamlit as st

from jaxrec.cli import runtime
from jaxrec.cli.command import Parser
from jaxrec.data.rows import Field
from jaxrec.errors import UserError
from jaxrec.plots.clicks import attention_figure
from jaxrec.recommend import Recommender
from jaxrec.run import Run
from jaxrec.tasks.clicks.recommend import ClickRecommender
from jaxrec.tasks.query import Answer, Query

LISTED = 20_000  # users; of more only the one that is typed is sent to the browser
FILTERED = 40  # values of a field that is offered as a filter
FORMATS: dict[type, str] = {int: "%d", float: "%.4f"}  # of columns: ids and years have no separators
UNKNOWN = "unknown"
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


class Service(NamedTuple):
    """What all visitors share."""

    recommender: Recommender
    kind: ClickRecommender
    filters: dict[str, tuple[list[Any], np.ndarray]]  # by field: its values, and int32[items, width] indices from 1
    item_ids: list[Any]


@st.cache_resource(show_spinner="Loading the model …")
def load(path: str) -> Service:
    """Load a run once for all visitors."""
    runtime.start()
    recommender = Recommender.load(path)
    kind = recommender.kind
    if not isinstance(kind, ClickRecommender):
        raise UserError(f"{path}: a run of {recommender.run.config.model.name}; this page shows click models")
    columns = kind.items.values(slice(None))
    fields = [field for field in kind.items.fields if field.kind != "numerical" and field.name != kind.items.name]
    fields.sort(key=lambda field: field.kind != "bag")  # those first: all genres say more than the first one
    filters = {
        name: (kind.codes.vocabulary(name).values(), columns[name])
        for name in (field.name for field in fields if 1 < field.size - 1 <= FILTERED)
    }
    return Service(recommender, kind, filters, [None, *kind.items.items.ids.values()])


# ---- words -----------------------------------------------------------------------------------------------------------


def plain(text: str) -> str:
    """Text that Streamlit shows as it is: what a path or a value holds is no markup."""
    return re.sub(r"([!-+.:-@[-`{-~-])", r"\\\1", text)


def label(name: str) -> str:
    return name.replace("_", " ").capitalize()


def meaning(run: Run, name: str, value: Any) -> str:
    """A value of a field in words."""
    if isinstance(value, list):
        return ", ".join(meaning(run, name, one) for one in value)
    text = UNKNOWN if value is None else str(value)
    return LEGENDS.get(str(run.manifest.get("source")), {}).get(name, {}).get(text, text)


def bags(run: Run) -> set[str]:
    return {field["name"] for field in run.manifest["fields"] if field["kind"] == "bag"}


def shown(run: Run, known: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of an item, as columns of a table."""
    lists = bags(run)
    return {label(name): str(value or "").replace("|", ", ") if name in lists else value
            for name, value in known.items()}  # fmt: skip


def named(run: Run, known: Mapping[str, Any], item: Any) -> str:
    """An item by its id, and the first text that is known of it and no field, such as a title."""
    fields = {field["name"] for field in run.manifest["fields"]}
    title = next((value for name, value in known.items() if isinstance(value, str) and name not in fields), "")
    return f"{title} · {item}" if title else str(item)


# ---- what is asked for -----------------------------------------------------------------------------------------------


def choose(service: Service) -> tuple[Query, int, list[Any]]:
    """The controls at the side: the user, the profile and the date, how many items, and those that are filtered out."""
    recommender, kind = service.recommender, service.kind
    users = [] if kind.users is None else kind.users.items.ids.values()
    kinds = ["A known user", "Somebody new"]
    new = not users or st.radio("Who", kinds, key="who", **KEEP, horizontal=True) == kinds[1]
    user, text = None, f"{len(users):,} users; type an id to search"
    if not new and len(users) <= LISTED:
        user = st.selectbox("User", users, key="user", help=text, **KEEP)
    elif not new:
        user = st.text_input("User", str(users[0]), key="user", help=text, **KEEP) or users[0]
    calendar = recommender.run.manifest["calendar"]
    fields, own = kind.schema.fields, kind.schema.user
    asked = [field for field in fields if new and field.side == "user" and field.name != own]
    asked += [field for field in fields if field.side == "context" and field.name not in calendar]
    answers = {field.name: choose_value(kind, field) for field in asked}
    profile = {name: value for name, value in answers.items() if value not in (None, [])}
    date = None
    if any(field.name in calendar for field in fields):
        last = datetime.datetime.fromtimestamp(int(recommender.run.kept("last_time")[0]), datetime.UTC).date()
        earliest, latest = datetime.date(1900, 1, 1), datetime.date(2100, 12, 31)
        date = st.date_input("Date", last, earliest, latest, key="date", format="YYYY-MM-DD", **KEEP)
    exclude, k = choose_filters(service), st.slider("How many", 5, 50, 10, 5, key="k", **KEEP)
    return Query(user=user, profile=profile, at=date), k, exclude


def choose_value(recommender: ClickRecommender, field: Field) -> Any:
    """A value of a field of the user or the occasion; None where it is left open."""
    name, more = label(field.name), KEEP | {"key": f"field {field.name}"}
    if field.kind == "numerical":
        return st.number_input(name, value=None, placeholder=UNKNOWN, **more)
    none = "usual" if field.side == "context" else UNKNOWN
    more["format_func"] = partial(meaning, recommender.run, field.name)
    values = recommender.codes.values(field.name)
    if field.kind == "bag":
        return st.multiselect(name, values, max_selections=field.width, placeholder=none, **more)
    return st.selectbox(name, values, index=None, placeholder=none, **more)


def choose_filters(service: Service) -> list[Any]:
    """Ids of the items that are filtered out. The items stay that have one of the values of each field."""
    allowed = np.ones(len(service.item_ids), bool)
    run, place, all_bags = service.recommender.run, st.container(), bags(service.recommender.run)
    for name, (values, columns) in service.filters.items():
        if name not in all_bags and all_bags & set(service.filters):
            place, all_bags = st.expander("More filters"), set()
        say = partial(meaning, run, name)
        wanted = place.multiselect(label(name), values, key=f"only {name}", format_func=say, placeholder="any", **KEEP)
        if wanted:
            allowed &= np.isin(columns, [values.index(value) + 1 for value in wanted]).any(axis=1)
    return [service.item_ids[item] for item in np.flatnonzero(~allowed) if item]


# ---- the page of recommendations -------------------------------------------------------------------------------------


def show_recommendations(service: Service) -> None:
    recommender, kind, run = service.recommender, service.kind, service.recommender.run
    with st.sidebar:
        query, k, exclude = choose(service)
    st.title("Recommendations", anchor=False)
    index = kind.profiles.index(query.user)
    known = query.profile if kind.users is None or not index else kind.users.items.known(np.array([index]))[0]
    facts = " · ".join(f"{label(name).lower()} {meaning(run, name, value)}" for name, value in known.items())
    who = "Somebody new" if query.user is None else plain(f"User {query.user}")
    st.markdown(f"**{who}**: {plain(facts) or 'nothing known'}")
    answer, word = recommender.recommend(query, min(k, recommender.n_items), exclude=exclude), kind.past.word()
    for note in answer.notes if answer.items else ():
        st.warning(plain(note))
    if not answer.items:
        st.info(f"The filters leave nothing that is not {word} already. Take one away.")
    else:
        item, text = label(str(kind.schema.item)), f"of a rating of {kind.schema.threshold:g} or more"
        # The probability stands first: there a narrow window shows it.
        rows = [{"Probability": 100 * one.score, **shown(run, one.known), f"{item} id": one.id} for one in answer.items]
        bar = st.column_config.ProgressColumn(format="%.1f%%", min_value=0, max_value=100, color="blue", help=text)
        table(rows, Probability=bar)
        st.caption(f"Probability {text}, by {plain(run.path.name)}. What the user has {word} before is left out.")
    items, ratings = kind.past.seen(index)
    if len(items):
        with st.expander(f"{word.capitalize()} before: {len(items):,}, the latest first"):
            stars = [{"Rating": float(rating)} if word == "rated" else {} for rating in ratings]
            past = [star | shown(run, one) for star, one in zip(stars, kind.items.items.known(items), strict=True)]
            table(past[::-1], Rating=st.column_config.NumberColumn(format="%g", width="small"))
    if answer.items:
        explain(service, query, answer)


@st.fragment  # another item to explain changes nothing above
def explain(service: Service, query: Query, answer: Answer) -> None:
    """What the prediction for one of the items attended to."""
    items = {one.id: named(service.recommender.run, one.known, one.id) for one in answer.items}
    st.subheader("Why this one?", anchor=False)
    item = st.selectbox(label(str(service.kind.schema.item)), list(items), format_func=lambda item: items[item])
    with st.spinner("Drawing …"):
        found = service.recommender.explain(query, item)
        st.markdown(f"Probability **{found.probability:.1%}**. Each row shows which fields that field draws from.")
        if not found.weights:
            st.info("This model has no interacting layers (model.blocks 0), so there is no attention to draw.")
            return
        figure = attention_figure(found.fields, found.values, found.weights, items[item])
        st.pyplot(figure, alt="attention weights; as text below")
    with st.expander("As text"):
        st.code(found.text(), language=None)


def table(rows: Sequence[Mapping[str, Any]], **columns: Any) -> None:
    kinds = {name: type(value) for row in rows for name, value in row.items() if type(value) in FORMATS}
    numbers = {name: st.column_config.NumberColumn(format=FORMATS[kind]) for name, kind in kinds.items()}
    st.dataframe(list(rows), column_config=numbers | columns, hide_index=True)


# ---- the page of the run ---------------------------------------------------------------------------------------------


def show_run(service: Service) -> None:
    run = service.recommender.run
    st.title("Run", anchor=False)
    st.caption(plain(f"{run.path}: {run.config.model.name} on {run.manifest.get('source')}, "
                     f"{run.manifest['counts']['rows']:,} rows"))  # fmt: skip
    show_picture(run.path / "learning_curve.png", "Learning curve", "training loss and validation metric by epoch")
    files = sorted(run.path.glob("eval-*.json"))
    if not files:
        st.info(plain(f"No metrics yet: python -m jaxrec.evaluate --run {run.path} --baselines all"))
    for file in files:
        show_metrics(run, file)
    with st.expander("Configuration"):
        st.code((run.path / "config.yaml").read_text(encoding="utf-8"), language="yaml")


def show_metrics(run: Run, file: Path) -> None:
    """What ``jaxrec.evaluate`` wrote of one split."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        title, text = f"{label(found['split'])} split", f"{found.pop('rows'):,} rows, {found['positive']:.1%} positive"
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{file}: damaged; write it again with python -m jaxrec.evaluate") from None
    st.subheader(title, anchor=False)
    st.caption(text)
    groups, models = found.get("groups", {}), {run.path.name: found} | found.get("baselines", {})
    table([{"Model": name} | metrics(one) for name, one in models.items()])
    for tab, (name, parts) in zip(st.tabs(list(map(label, groups))) if groups else (), groups.items(), strict=True):
        with tab:
            table([{"Group": meaning(run, name, value), **metrics(one)} for value, one in parts.items()])
    show_picture(file.with_name(f"{file.stem}-reliability.png"), "Reliability", "observed click rates over predicted")


def metrics(found: Mapping[str, Any]) -> dict[str, float]:
    return {name: one for name, one in found.items() if type(one) in FORMATS and name not in ("seconds", "positive")}


def show_picture(file: Path, title: str, text: str) -> None:
    if file.is_file():
        st.subheader(title, anchor=False)
        st.image(str(file), alt=text, width=600)


def main(argv: Sequence[str]) -> None:
    st.set_page_config("jaxrec", layout="wide")
    try:
        parser = Parser(prog="streamlit run scripts/demo.py --", add_help=False)
        parser.add_argument("--run", required=True, metavar="DIR")
        service = load(parser.parse_args(argv).run)
        pages = {"Recommendations": show_recommendations, "Run": show_run}
        st.navigation([st.Page(partial(page, service), title=title, url_path=title.lower())
                       for title, page in pages.items()]).run()  # fmt: skip
    except UserError as error:
        st.error(plain(str(error)))


if __name__ == "__main__":
    main(sys.argv[1:])
