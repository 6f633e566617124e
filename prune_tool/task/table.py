"""A table of paths and labels beside the images: CSV, TSV or parquet."""

import csv
import os
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from prune_tool.errors import DataError
from prune_tool.records import Split
from prune_tool.task.extras import need
from prune_tool.task.files import FileImages
from prune_tool.task.labels import index_labels, labelled_rows
from prune_tool.task.naming import LABELS, PATHS, SPLIT_COLUMNS, SPLIT_NAMES, few, pick, splits_of_files

ENDINGS = (".csv", ".tsv")
"""Tables of text. A parquet file is one too where it holds no images itself."""

REMEDY = (
    "A table such as 'path,label' with a line 'cats/1.jpg,cat' for each image works, its paths relative to its folder,"
    " or absolute; a column 'split' may say train, val or test"
)

Columns = Mapping[str, Sequence[Any]]


def open_tables(tables: Sequence[Path], name: str) -> FileImages:
    """Read tables with a column of paths, one of labels, and maybe one of splits.

    Paths are relative to the table's folder and stay below it; an absolute one is taken as it is, since whoever wrote
    it meant that place. Links to files are followed, as in class folders. Where there is no column of splits, the
    tables' own names may say them (``train.csv`` beside ``test.csv``).

    Args:
        tables: ``.csv``, ``.tsv`` or ``.parquet`` files.
        name: what to call the images.

    Raises:
        DataError: a table cannot be read or lacks a column, a path leads out of its folder, a split has no known name,
            or none of the files is there.
    """
    asked = f"read the table {tables[0]}" if len(tables) == 1 else f"read the tables {few([t.name for t in tables])}"
    by_name = splits_of_files(tables)
    rows: list[tuple[Path, str, Split | None]] = []
    for table in tables:
        rows += _rows(table, by_name[table])
    paths, values, splits = [list(column) for column in zip(*rows, strict=True)] or [[], [], []]
    try:
        kept = labelled_rows(values, splits, lambda i: paths[i].name)
        classes, labels = index_labels([values[i] for i in kept])
    except ValueError as error:
        raise DataError(
            asked=asked, found=str(error), remedy="Give every image a label, of two classes or more"
        ) from error
    if not any(path.is_file() for path in paths):
        found = f"none of its {len(paths):,} files is there; the first would be {paths[0]}"
        raise DataError(asked=asked, found=found, remedy=REMEDY)
    return FileImages(
        name=name,
        classes=classes,
        labels=labels,
        given_splits=tuple(splits[i] for i in kept),
        paths=tuple(paths[i] for i in kept),
    )


def _rows(table: Path, split: Split | None) -> list[tuple[Path, str, Split | None]]:
    """File, label and split of each line."""
    asked = f"read the table {table}"
    columns = _read_parquet(table, asked) if table.suffix.lower() == ".parquet" else _read_text(table, asked)
    names = [*columns]
    path, label = pick(names, PATHS), pick([name for name in names if name != pick(names, PATHS)], LABELS)
    if path is None or label is None:
        lacking = f"none called {' or '.join((PATHS if path is None else LABELS)[:4])}"
        raise DataError(asked=asked, found=f"the columns {few(names) or '(none)'}, {lacking}", remedy=REMEDY)
    of_split = pick(names, SPLIT_COLUMNS)
    splits = [split] * len(columns[path]) if of_split is None else [_split(text, asked) for text in columns[of_split]]
    root = table.parent
    return [
        (_inside(root, str(file or ""), asked), "" if value is None else str(value), said)
        for file, value, said in zip(columns[path], columns[label], splits, strict=True)
    ]


def _read_text(table: Path, asked: str) -> Columns:
    """Columns by name. The first line names them."""
    try:
        text = table.read_text(encoding="utf-8-sig")
        first = text.partition("\n")[0]
        delimiter = max("\t;,", key=first.count)
        lines = [line for line in csv.reader(StringIO(text, newline=""), delimiter=delimiter) if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(asked=asked, found=f"it is not a table of text ({error})", remedy=REMEDY) from error
    if len(lines) < 2:
        raise DataError(asked=asked, found="no line below the one that names the columns", remedy=REMEDY)
    head, *body = lines
    uneven = next((n for n, line in enumerate(body, start=2) if len(line) != len(head)), None)
    if uneven:
        found = f"row {uneven} has {len(body[uneven - 2])} fields where {len(head)} are named"
        raise DataError(asked=asked, found=found, remedy=REMEDY)
    return {name.strip(): [line[i].strip() for line in body] for i, name in enumerate(head)}


def _read_parquet(table: Path, asked: str) -> Columns:
    parquet = need("pyarrow.parquet", extra="parquet", asked=asked)
    try:
        names = parquet.read_schema(table).names
        wanted = {pick(names, known) for known in (PATHS, LABELS, SPLIT_COLUMNS)}
        columns: Columns = parquet.read_table(table, columns=[n for n in names if n in wanted]).to_pydict()
    except Exception as error:  # a damaged file raises anything
        raise DataError(asked=asked, found=f"it cannot be read ({error})", remedy=REMEDY) from error
    return {name: columns.get(name, ()) for name in names}


def _split(text: object, asked: str) -> Split | None:
    name = str(text or "").strip().lower()
    if name and name not in SPLIT_NAMES:
        raise DataError(asked=asked, found=f"a split called {text}", remedy=f"Call it {', '.join(SPLIT_NAMES)}")
    return SPLIT_NAMES[name] if name else None


def _inside(root: Path, file: str, asked: str) -> Path:
    """The file that a table means. Raises ``DataError`` for a relative path that leads out of ``root``."""
    path = os.path.normpath(file.replace("\\", "/") if os.sep == "/" and "/" not in file else file)
    if not file or (not Path(path).is_absolute() and Path(path).parts[:1] == (os.pardir,)) or "\0" in file:
        found = f"the path {file!r} leads out of the table's folder" if file else "a line without a path"
        remedy = "Keep the images below the table's folder, or write absolute paths into the table"
        raise DataError(asked=asked, found=found, remedy=remedy)
    return root / path
