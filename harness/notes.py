"""What a reader must know before any figure of a run: nothing is loaded and nothing is asked."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from ..tasks import sources, templates
from .planning.plan import Plan
from .suite import EMBEDDED, ModelSpec


def notes(plan: Plan) -> list[str]:
    """The remarks that stand at the top of every report of *plan*."""
    parts = (_data, _leaks, _weights, _code, _endpoints, _extent, _wording)
    return [note for part in parts for note in part(plan)]


def _data(plan: Plan) -> Iterator[str]:
    real = _real(plan)
    if len(real) < len(plan.tasks):
        yield (
            "The clinic is fictional: every disease, drug and finding in its questions is "
            "invented, so that no model can have seen them. The scores say how well the pipeline "
            "works, not what a model knows of medicine."
        )
    bases = {name: plan.spec(plan.base_of(name)).pretrained for name in plan.models}
    stand_in = [name for name, pretrained in bases.items() if pretrained in EMBEDDED]
    if real and stand_in:
        yield (
            f"Placeholder model: {', '.join(stand_in)} stand on a model of about a million "
            "parameters that knows no medicine. Accuracy and bits per byte on "
            f"{', '.join(real)} are meaningless here; this run shows that the data path works."
        )


def _leaks(plan: Plan) -> Iterator[str]:
    """Recipes that were told to tune on rows which are tested; rows are compared by overlap.py."""
    for name, recipe in plan.recipes.items():
        if recipe.data.hold_out:
            continue
        tuned_on = sources.named(recipe.data.source, recipe.data.config)
        leaked = [t.name for t in plan.tasks if sources.share_questions(tuned_on, t.data)]
        if leaked:
            yield (
                f"Leak: {name} was tuned on {recipe.data.source} without holding out the rows that "
                f"are tested here (hold_out: false). Its scores on {', '.join(leaked)} mean "
                "nothing."
            )


def _weights(plan: Plan) -> Iterator[str]:
    outside = [name for name in plan.models if (a := plan.spec(name).adapter) and a.path]
    if outside:
        yield (
            f"The adapter of {', '.join(outside)} was trained elsewhere. Whether its training rows "
            "hold questions of these tests is not known."
        )


def _code(plan: Plan) -> Iterator[str]:
    bases = dict.fromkeys(plan.base_of(name) for name in plan.models)
    for spec in (plan.spec(name) for name in bases):
        if spec.trust_remote_code:
            at = f" at revision {spec.revision}" if spec.revision else ""
            yield (
                f"The code that comes with {spec.pretrained}{at} was run, as the suite allows "
                "(trust_remote_code): what it does beside answering is not known."
            )


def _endpoints(plan: Plan) -> Iterator[str]:
    for name in plan.models:
        if plan.backend(name).remote:
            yield (
                f"{name} is what {_server(plan.spec(name))} answered with at the time. The "
                "weights behind a URL cannot be hashed: nobody can tell from this run whether "
                "they have changed since."
            )
    chats = [name for name in plan.models if plan.chats(name)]
    if chats and len(chats) < len(plan.models):
        yield (
            f"{', '.join(chats)} can only be asked through a chat template, and the other models "
            "were asked without one. A difference between them may be the template's; "
            "prompt.chat_template: true asks all of them alike."
        )


def _extent(plan: Plan) -> Iterator[str]:
    if plan.suite.limit:
        yield f"Only the first {plan.suite.limit} questions of each task were asked."
    folder = sources.data_dir()
    published = dict.fromkeys(task.data for task in plan.tasks if task.data in sources.SOURCES)
    if folder and published:
        yield (
            f"Rows of {', '.join(published)} were read from local files ({folder.name}/) instead "
            "of the Hub."
        )


def _wording(plan: Plan) -> Iterator[str]:
    for name, recipe in plan.recipes.items():
        chat = recipe.format == "chat"
        column = recipe.data.question
        tuned = templates.tuning_frame(recipe.prompt, recipe.completion, column, chat)
        yield from templates.warnings(name, tuned, plan.tasks, plan.suite.prompt)


def _real(plan: Plan) -> list[str]:
    """The tasks that ask of the real world."""
    return [task.name for task in plan.tasks if task.data != "clinic"]


def _server(spec: ModelSpec) -> str:
    url = spec.args.get("base_url")
    return f"{spec.args['model']!r} at {urlsplit(url).netloc if url else spec.backend}"
