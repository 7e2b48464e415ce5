"""docs/study.md, or the part of it whose results exist."""

from collections.abc import Callable

from jinja2 import Environment, FileSystemLoader

from minibert.report.tables import search_rows
from study import conclusions, tables
from study.claims import FAILS, HOLDS, NOT_SIGNIFICANT, Claim
from study.folder import Study
from study.outcomes import Outcomes
from study.plan import HERE, TASKS

SECTIONS: dict[str, tuple[Callable[[Outcomes], list[Claim]], ...]] = {
    "single": (conclusions.single_heads, conclusions.agreement),
    "frozen": (conclusions.frozen,),
    "tuned": (conclusions.tuned,),
    "keyphrases": (conclusions.keyphrases,),
    "search": (conclusions.search,),
}


def make_page(study: Study) -> str:
    """The page as Markdown. Its figures are drawn beside it."""
    outcomes = Outcomes(study)
    claims = {
        section: [claim for make in makers for claim in make(outcomes) if claim.cases]
        for section, makers in SECTIONS.items()
    }
    folder = study.settings.page.parent
    folder.mkdir(parents=True, exist_ok=True)

    loader = FileSystemLoader(HERE)
    environment = Environment(loader=loader, trim_blocks=True, lstrip_blocks=True)
    environment.filters["table"] = tables.as_markdown
    cases = outcomes.cases("frozen", "gradient")
    return environment.get_template("study.md.j2").render(
        outcomes=outcomes,
        tables=tables,
        claims=claims,
        summary=summarise([claim for section in claims.values() for claim in section]),
        figures={case: tables.draw_kept(outcomes, case, folder) for case in cases},
        search_rows=search_rows,
        size=study.size,
        tasks=TASKS,
        quick=study.settings.quick,
    )


def summarise(claims: list[Claim]) -> dict[str, list[Claim]]:
    """The claims by their verdict, if all of their cases have the same; otherwise "mixed"."""
    groups: dict[str, list[Claim]] = {HOLDS: [], "mixed": [], NOT_SIGNIFICANT: [], FAILS: []}
    for claim in claims:
        verdicts = set(claim.verdicts.values())
        groups[verdicts.pop() if len(verdicts) == 1 else "mixed"].append(claim)
    return groups
