"""A collection to search: documents, queries, and which documents are relevant."""

import re
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from minibert.data.corpus import field, parse_object, read_lines
from minibert.data.documents import Document
from minibert.errors import InputError, check
from minibert.search.bm25 import terms
from minibert.text.words import word_spans

QUERY_COLUMN = re.compile("(q|query|topic)[-_ ]?id|query|topic", re.IGNORECASE)  # in a header
GRADE = re.compile(r"(-?\d{1,9})(\.0*)?")  # 1, -1 or 1.0


class Collection(NamedTuple):
    """What to search, with the queries of which a relevant document is known."""

    documents: list[Document]
    queries: list[Document]
    qrels: dict[str, dict[str, int]]  # query -> document -> grade; above 0 is relevant
    note: str = ""  # what was left out, to be shown to the user


def collection_files(folder: str | Path) -> tuple[Path, Path, Path]:
    """corpus.jsonl, queries.jsonl and the judgements: qrels.tsv, or BEIR's qrels/test.tsv."""
    folder = Path(folder)
    qrels = folder / "qrels.tsv"
    if not qrels.exists() and (folder / "qrels").is_dir():
        qrels = folder / "qrels" / "test.tsv"
    return folder / "corpus.jsonl", folder / "queries.jsonl", qrels


def read_collection(corpus: str | Path, queries: str | Path, qrels: str | Path) -> Collection:
    """Read a collection as BEIR or TREC publish it: JSONL of {"id" or "_id", "title" (optional),
    "text"}, JSONL of {"id" or "_id", "text"}, and lines "query document grade" or "query 0 document
    grade", separated by tabs or white space, with or without a header.

    A document without words is allowed, and never retrieved. A judged document that the corpus
    lacks stays in the qrels, so it counts as not retrieved; judgements of unknown queries, and
    queries without a relevant document, are left out. The note counts them. Raises InputError, with
    file and line, for anything wrong.
    """
    documents, all_queries = _read_texts(corpus), _read_texts(queries)
    has_terms = any(any(terms(document)) for document in documents)
    check(has_terms, f"{corpus}: no document has a word to search for")
    all_grades = _read_qrels(qrels)
    grades = {query.id: all_grades.pop(query.id, {}) for query in all_queries}  # of known queries
    relevant = {
        query: {document for document, grade in judged.items() if grade > 0}
        for query, judged in grades.items()
    }

    known = {document.id for document in documents}
    kept_queries = [query for query in all_queries if relevant[query.id]]
    counts = {
        "judgements of unknown documents, which count as not retrieved": sum(
            document not in known for judged in grades.values() for document in judged
        ),
        "judgements of unknown queries, skipped": sum(map(len, all_grades.values())),
        "queries without a relevant document, skipped": len(all_queries) - len(kept_queries),
    }
    note = "; ".join(f"{what}: {count}" for what, count in counts.items() if count)

    is_relevant = not known.isdisjoint(set().union(*relevant.values()))
    check(is_relevant, f"{qrels}: no query has a relevant document; {note}")
    return Collection(documents, kept_queries, {q.id: grades[q.id] for q in kept_queries}, note)


def _read_texts(path: str | Path) -> list[Document]:
    documents: dict[str, Document] = {}
    for where, line in read_lines(path):
        raw = parse_object(line, where)
        name = str(field(raw, "_id" if "_id" in raw else "id", str | int, where))
        check(name not in documents, f"{where}: the id {name!r} occurs twice; ids must differ")
        title = field({"title": None} | raw, "title", str | None, where)
        text = "\n".join(filter(None, [title, field(raw, "text", str, where)]))
        documents[name] = Document(name, text, word_spans(text))

    check(documents, f"{path}: no texts in it")
    return list(documents.values())


def _read_qrels(path: str | Path) -> dict[str, dict[str, int]]:
    grades: dict[str, dict[str, int]] = defaultdict(dict)
    for where, line in read_lines(path):
        fields = line.strip().split("\t")  # ids may hold spaces
        if len(fields) not in (3, 4):
            fields = line.split()
        grade = GRADE.fullmatch(fields[-1].strip())
        if not grade and QUERY_COLUMN.fullmatch(fields[0]):
            continue  # a header
        if not grade or len(fields) not in (3, 4):
            raise InputError(f"{where}: expected query, document, grade; found {line[:40]!r}")

        query, document, value = fields[0], fields[-2], int(grade[1])
        if grades[query].setdefault(document, value) != value:
            raise InputError(f"{where}: {document!r} has two grades for query {query!r}")
    return dict(grades)
