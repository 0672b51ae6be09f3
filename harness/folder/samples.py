"""The samples table of a run, however large: its numbers whole, its texts for a few rows at a time.

Texts are nine tenths of the table, and nobody reads ten million of them. So statistics take
:func:`numbers`, in which a text that is there is only marked, and what is to be shown is given its
texts by :func:`whole`. The file is passed through in pieces; no column of texts is ever held.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .store import RunFolder, atomic_path, readable

FILE = "samples.parquet"
NUMBERS = (
    "model", "task", "doc_id", "cluster", "order", "doc_hash", "protocol", "metric", "score",
    "weight", "subject", "truncated", "unparsed", "problem",
)  # fmt: skip
MARKED = ("question", "prediction", "output")
"""Texts of which :func:`numbers` says whether they are there."""
THERE = "…"
"""What stands for a text that is there and was not read."""
PIECE = 65_536
"""Rows in one piece of a file that is written here."""

Places = npt.NDArray[np.int64]


def numbers(run: RunFolder) -> pd.DataFrame:
    """Every row without its texts, about 60 bytes each; what repeats is kept once, as a category.

    The index is the row's place in the file. Of MARKED, ``THERE`` stands where there is a text.

    Raises:
        InputError: The table is missing or damaged.
    """
    path = run / FILE
    with readable(path), pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        found = {name: _column(run, name) for name in NUMBERS if name in names}
        found |= {name: _marks(file, name) for name in MARKED if name in names}
    table = pd.DataFrame(found)
    for name in ("doc_id", "order"):
        table[name] = pd.to_numeric(table[name], downcast="integer")
    return upgraded(table)


def upgraded(table: pd.DataFrame) -> pd.DataFrame:
    """*table* with what format 1 had not."""
    if "subject" not in table:
        table["subject"] = None
    if "problem" not in table and "unparsed" in table:  # format 1 did not know why
        table["problem"] = table["unparsed"].map({True: "unstated"}).astype(object)
        table["problem"] = table["problem"].where(table["unparsed"], None)
    return table


def whole(run: RunFolder, rows: pd.DataFrame) -> pd.DataFrame:
    """*rows* of :func:`numbers` with all that the file has of them but their prompts."""
    rows = rows.sort_index().drop(columns=list(MARKED), errors="ignore")
    places, parts = rows.index.to_numpy(np.int64), []
    with readable(run / FILE), pq.ParquetFile(run / FILE) as file:
        names = [n for n in file.schema_arrow.names if n not in (*rows.columns, "prompt")]
        for start, piece in _pieces(file, names, _groups_of(file, places)):
            here = places[slice(*np.searchsorted(places, (start, start + len(piece))))]
            if len(here):
                parts.append(pa.Table.from_batches([piece.take(pa.array(here - start))]))
        texts = pa.concat_tables(parts) if parts else file.schema_arrow.empty_table().select(names)
    table: pd.DataFrame = texts.to_pandas().set_index(rows.index)
    for name, column in rows.items():  # plain values, as in a table that was read at once
        kind = object if isinstance(column.dtype, pd.CategoricalDtype) else column.dtype
        table[name] = column.astype(kind)
    return table


def of_model(
    run: RunFolder,
    model: str,
    leave_out: Collection[str] = (),
    *,
    named: Collection[str] = (),
    hashes: Collection[str] | None = None,
) -> pd.DataFrame:
    """The rows of one model, with a new index and without the columns *leave_out*.

    Args:
        named: Columns in which a short name stands for each text, the same for the same text.
        hashes: Only the rows of questions of these ``doc_hash``.
    """
    wanted = None if hashes is None else pa.array(sorted(hashes), pa.large_string())
    parts = []
    with readable(run / FILE), pq.ParquetFile(run / FILE) as file:
        names = [name for name in file.schema_arrow.names if name not in leave_out]
        groups = [group for group in _groups(file) if _may_hold(file, group, "model", model)]
        for _, piece in _pieces(file, names, groups):
            chosen = piece.filter(pc.equal(piece.column("model"), model))
            if wanted is not None:
                known = chosen.column("doc_hash").cast(pa.large_string())
                chosen = chosen.filter(pc.is_in(known, value_set=wanted))
            for name in named:
                place = chosen.schema.get_field_index(name)
                chosen = chosen.set_column(place, name, _names(chosen.column(name)))
            if len(chosen):
                parts.append(pa.Table.from_batches([chosen]))
        table = pa.concat_tables(parts) if parts else file.schema_arrow.empty_table().select(names)
    return upgraded(table.to_pandas(split_blocks=True, self_destruct=True))


def models(run: RunFolder) -> list[str]:
    """The models that have answers, in the order of the table."""
    with readable(run / FILE):
        return [str(name) for name in _column(run, "model").unique()]


def known_by_document(run: RunFolder) -> bool:
    """Whether the file says of itself that every question is known by its document's hash."""
    from ..comparing.identity import ID

    with readable(run / FILE), pq.ParquetFile(run / FILE) as file:
        last = [_statistics(file, group, "doc_hash") for group in _groups(file)]
        # Hashes are of 0-9a-f: ids, which begin with a later letter, would be the last in order.
        return all(one is not None and one.has_min_max and str(one.max) < ID for one in last)


def identified(run: RunFolder, rows: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """*rows* of :func:`numbers` with numbers in place of texts, equal where the texts are.

    NA stands where there is none or an empty one.
    """
    places = rows.index.to_numpy(np.int64)
    codes = {name: np.zeros(len(places), np.uint64) for name in columns}
    with readable(run / FILE), pq.ParquetFile(run / FILE) as file:
        for start, piece in _pieces(file, columns, _groups_of(file, places)):
            span = slice(*np.searchsorted(places, (start, start + len(piece))))
            here = pa.array(places[span] - start)
            for name in columns:
                texts = piece.column(name).take(here).to_numpy(zero_copy_only=False)
                codes[name][span] = _hashes(texts)
    return rows.assign(**{
        name: pd.array(found, "UInt64") if found.all() else pd.Series(found, rows.index, "UInt64")
        .where(found != 0)
        for name, found in codes.items()
    })  # fmt: skip


def matching(run: RunFolder, column: str, texts: Iterable[str]) -> npt.NDArray[np.bool_]:
    """Which rows of the file have one of *texts* in *column*."""
    wanted = pa.array(list(texts), pa.large_string())
    found = [np.zeros(0, bool)]
    with readable(run / FILE), pq.ParquetFile(run / FILE) as file:
        for _, piece in _pieces(file, [column], _groups(file)):
            here = piece.column(column).cast(pa.large_string())
            found.append(pc.is_in(here, value_set=wanted).to_numpy(zero_copy_only=False))
    return np.concatenate(found)


def gather(run: RunFolder, parts: Sequence[str], relative: str) -> None:
    """Write the tables *parts* one after the other as one, never more than a piece in memory."""
    paths = [run / part for part in parts]
    schemas = []
    for path in paths:
        with readable(path):
            schemas.append(pq.read_schema(path).remove_metadata())
    schema = pa.unify_schemas(schemas, promote_options="permissive")
    with atomic_path(run / relative) as draft, pq.ParquetWriter(draft, schema) as out:
        waiting: list[pa.Table] = []
        for table in _read(paths):
            waiting.append(_as(table, schema))
            if sum(map(len, waiting)) >= PIECE:
                out.write_table(pa.concat_tables(waiting))
                waiting.clear()
        if waiting:
            out.write_table(pa.concat_tables(waiting))


def _read(paths: Iterable[Path]) -> Iterator[pa.Table]:
    """The tables in pieces. What goes wrong where they are written is not told of these files."""
    for path in paths:
        with readable(path), pq.ParquetFile(path) as file:
            for _, piece in _pieces(file, None, _groups(file)):
                yield pa.Table.from_batches([piece])


def _as(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """*table* in the columns and types of *schema*; what it has not is null."""
    absent = [field for field in schema if field.name not in table.column_names]
    for field in absent:
        table = table.append_column(field, pa.nulls(len(table), field.type))
    return table.select(schema.names).cast(schema)


def _groups(file: pq.ParquetFile) -> range:
    return range(file.metadata.num_row_groups)


def _starts(file: pq.ParquetFile) -> Places:
    """Of each row group the place of its first row; at last the number of rows."""
    sizes = [file.metadata.row_group(group).num_rows for group in _groups(file)]
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def _groups_of(file: pq.ParquetFile, places: Places) -> list[int]:
    """The row groups in which *places* lie, sorted as these are."""
    return [int(one) for one in np.unique(np.searchsorted(_starts(file), places, "right") - 1)]


def _pieces(
    file: pq.ParquetFile, columns: Sequence[str] | None, groups: Iterable[int]
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The place of its first row, and a piece of these row groups."""
    starts = _starts(file)
    for group in groups:
        start = int(starts[group])
        for piece in file.iter_batches(PIECE, [group], columns):
            yield start, piece
            start += len(piece)


def _column(run: RunFolder, name: str) -> pd.Series[Any]:
    """One column; text as categories."""
    kind = pq.read_schema(run / FILE).field(name).type
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    with pq.ParquetFile(run / FILE, read_dictionary=[name] if text else None) as file:
        read = file.read([name]).column(name)
    found: pd.Series[Any] = (read.unify_dictionaries() if text else read).to_pandas()
    return found


def _marks(file: pq.ParquetFile, name: str) -> pd.Series[Any]:
    """THERE where the column *name* has a text; from the file's own count of nulls if it can be."""
    found = [np.zeros(0, bool)]
    for group in _groups(file):
        told, rows = _statistics(file, group, name), file.metadata.row_group(group).num_rows
        nulls = told.null_count if told is not None and told.has_null_count else None
        if nulls in (0, rows):
            found.append(np.full(rows, nulls == 0))
            continue
        for _, piece in _pieces(file, [name], [group]):
            found.append(piece.column(name).is_valid().to_numpy(zero_copy_only=False))
    codes = np.concatenate(found).astype(np.int8) - np.int8(1)
    return pd.Series(pd.Categorical.from_codes(codes, pd.Index([THERE])))


def _may_hold(file: pq.ParquetFile, group: int, name: str, value: str) -> bool:
    told = _statistics(file, group, name)
    return told is None or not told.has_min_max or told.min <= value <= told.max


def _statistics(file: pq.ParquetFile, group: int, name: str) -> Any:
    """What the file tells of a column in a row group; None where it tells nothing."""
    row_group = file.metadata.row_group(group)
    for place in range(row_group.num_columns):
        if row_group.column(place).path_in_schema == name:
            return row_group.column(place).statistics
    return None


def _names(texts: pa.Array) -> pa.Array:
    """A short text for each; what is none or empty stays what it was."""
    hashed = pa.array(_hashes(texts.to_numpy(zero_copy_only=False)))
    said = pc.binary_join_element_wise(THERE, hashed.cast(pa.string()), "")
    return pc.if_else(pc.equal(hashed, pa.scalar(0, pa.uint64())), texts.cast(pa.string()), said)


def _hashes(texts: Any) -> npt.NDArray[np.uint64]:
    """64 bits a text; 0 for none and for an empty one."""
    stated = np.array([isinstance(text, str) and text != "" for text in texts], bool)
    found = np.zeros(len(texts), np.uint64)
    hashed = pd.util.hash_array(np.asarray(texts[stated], object), categorize=False)
    found[stated] = np.maximum(hashed, 1)
    return found
