"""Let another judge score stored answers, without running a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from caseharden.errors import CasehardenError, nearest
from caseharden.judges.judge import Answer, Judge, judged
from caseharden.records.statistics import reading
from caseharden.store.store import Store
from caseharden.store.tables import GenerationRow, PlaceRow, RecordRow, ScoreRow
from caseharden.study.plan import judge_name


def rescore(store: Store, study: str, measure: str, judge: Judge) -> int:
    """Add a record by `judge` for every reading of `measure` in the study; returns how many were new.

    With each goes the score of every answer, both or neither. A reading by the same judge that scored nothing,
    since the judge failed then, is made again, and so is one of an earlier version, which kept no scores.
    Raises `CasehardenError` if the study has no stored answers of that measure, or if it has no judge.
    """
    store.complete()
    name, version = judge_name(judge), judge.version
    with store.session() as session:
        of_study = select(PlaceRow.cell).where(PlaceRow.study == study)
        rows = list(session.scalars(select(RecordRow).where(RecordRow.cell.in_(of_study), RecordRow.own)))
    own = [row for row in rows if row.measure == measure]
    if not own:
        known = nearest(measure, {row.measure for row in rows})
        raise CasehardenError(f"study {study!r} has no stored answers of measure {measure!r}.{known}")
    if not all(row.judge for row in own):
        others = ", ".join(sorted({row.measure for row in rows if row.judge}))
        raise CasehardenError(
            f"measure {measure!r} has no judge and scores by itself: it has no answers of the model that another "
            f"could score. Measures that have are {others or 'none of this study'}."
        )
    new = 0
    for row in own:
        where = {"cell": row.cell, "measure": measure, "step": row.step}
        with store.session("storing a record") as session:
            record = session.scalar(select(RecordRow).filter_by(**where, judge=name, judge_version=version))
            if record is not None and record.n and (record.own or _scored(session, where, name, version)):
                continue
            by_number = select(GenerationRow).filter_by(**where).order_by(GenerationRow.number)
            stored = list(session.scalars(by_number))
            answers = [_answer(row) for row in stored]
            scores = [answer.score for answer in judged(judge, answers)]
            clusters = [answer.cluster for answer in answers]
            found = reading(scores, clusters, judge=name, judge_version=version)
            if record is not None and record.n > found.n == 0:
                continue  # what is stored is better than nothing
            if record is None:
                session.add(RecordRow(**where, own=False, spec=row.spec, **vars(found)))
            else:
                for column, value in vars(found).items():
                    setattr(record, column, value)
            if record is not None and record.own:
                for generation, score in zip(stored, scores, strict=True):
                    generation.score = score
            else:
                session.execute(delete(ScoreRow).filter_by(**where, judge=name, judge_version=version))
                session.add_all(
                    ScoreRow(**where, number=g.number, judge=name, judge_version=version, score=score)
                    for g, score in zip(stored, scores, strict=True)
                )
            new += record is None or found.n > 0
    return new


def _answer(row: GenerationRow) -> Answer:
    """A stored answer as a judge reads it."""
    finished = row.finished is not False  # None in a store of an earlier version
    return Answer(
        row.item, row.prompt, row.output, row.expected, row.topic, group=row.group or "", finished=finished
    )


def _scored(session: Session, where: Mapping[str, Any], judge: str, version: str) -> bool:
    """Whether the scores behind a further judge's reading are stored."""
    rows = select(func.count()).select_from(ScoreRow).filter_by(**where, judge=judge, judge_version=version)
    return bool(session.scalar(rows))
