"""Tables in HDF5: columns instead of a group per record, every record and every attribute under a sha256.

A file has one group per table. A number column is a dataset of length N. A text or list column is a group of two
datasets: `values`, all items one after the other (text as UTF-8 bytes), and `offsets` of length N + 1, so that item i
is `values[offsets[i]:offsets[i + 1]]`. A child table has a column `row`, the index of the record it belongs to.
Equal rows give equal bytes: no times are stored and the file format is fixed to that of HDF5 1.10.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from cognition_db.experience.errors import StoreError
from cognition_db.records import SCHEMA_VERSION, canonical_json, sha256_text

Row = dict[str, Any]
Kind = Literal["float", "int", "uint", "text", "floats", "ints"]

_DTYPES = {"float": "<f8", "int": "<i8", "uint": "<u8", "text": "|u1", "floats": "<f8", "ints": "<i8"}
_RAGGED = ("text", "floats", "ints")
# the newest format that HDF5 1.10 (2016) still reads; it puts checksums on all metadata
_FORMAT = ("v110", "v110")
# small enough to read one program out of many, large enough to scan a column at memory speed
_CHUNK_BYTES = 262_144
_PROGRAM = "arch_search"
_TOTAL = "content_sha256"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One field of a record; `unit` stands in the file beside the data.

    `since`: the schema that brought it. Older files lack it, its value there is "", and "" is no part of a digest.
    """

    name: str
    kind: Kind
    unit: str
    description: str
    since: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Records of one kind; each record holds a list of rows per child table."""

    name: str
    description: str
    columns: tuple[Column, ...]
    children: tuple[Table, ...] = ()


_DIGESTS = Column(
    name="record_sha256",
    kind="text",
    unit="hex",
    description="sha256 of the record's canonical JSON, each list of numbers as the sha256 of its little-endian bytes",
)


def record_digest(table: Table, row: Row) -> str:
    """sha256 of the record's canonical JSON, in which each list of numbers is the sha256 of its little-endian bytes."""
    return sha256_text(canonical_json(_plain(table, row)))


def build(kind: str, tables: Sequence[tuple[Table, Sequence[Row]]], *, facts: dict[str, str]) -> bytes:
    """The bytes of an HDF5 file with these tables; `facts` become attributes of the root.

    Raises:
        StoreError: a value does not fit its column; the message names table, column and value.
    """
    digests = {table.name: [record_digest(table, row) for row in rows] for table, rows in tables}
    with h5py.File("image.h5", "w", driver="core", backing_store=False, libver=_FORMAT) as file:
        file.attrs.update({"kind": kind, "program": _PROGRAM, "schema_version": str(SCHEMA_VERSION), **facts})
        for table, rows in tables:
            group = _write_table(file, table, rows)
            _write_column(group, _DIGESTS, digests[table.name])
        file.attrs[_TOTAL] = _total(file, digests)
        file.flush()
        image: bytes = file.id.get_file_image()
    return image


def parse(data: bytes, kind: str, tables: Sequence[Table]) -> dict[str, list[Row]]:
    """The rows of every table, all digests checked.

    Raises:
        StoreError: not HDF5, another kind or schema, or content that does not match its digests. A damaged file can
            also make the HDF5 library hang or crash: read files of unknown health through guard.check_files.
    """
    try:
        with h5py.File(h5py.h5f.open_file_image(data)) as file:
            _check_kind(file, kind)
            rows = {table.name: _read_table(file, table, limit=len(data)) for table in tables}
            digests = {table.name: _checked_digests(file, table, rows[table.name], len(data)) for table in tables}
            if file.attrs[_TOTAL] != _total(file, digests):
                raise StoreError("attributes or number of records do not match content_sha256; the file is damaged")
    except StoreError:
        raise
    # damaged bytes surface from HDF5, numpy and UTF-8 as almost any exception
    except Exception as error:
        raise _unreadable(error) from error
    return rows


def kind_of(data: bytes) -> str:
    """The attribute `kind` of the root; raises StoreError when there is none. The warning at parse holds here too."""
    kind = fact(data, "kind")
    if not kind:
        raise StoreError("not readable as HDF5 of this program (its root has no attribute `kind`)")
    return kind


def fact(data: bytes, name: str) -> str:
    """An attribute of the root, empty where it has none; StoreError where the file can't be read."""
    try:
        with h5py.File(h5py.h5f.open_file_image(data)) as file:
            return str(file.attrs.get(name, ""))
    except Exception as error:
        raise _unreadable(error) from error


def _plain(table: Table, row: Row) -> dict[str, Any]:
    columns = [column for column in table.columns if column.since == 1 or row[column.name]]
    plain = {column.name: _plain_value(column, row[column.name]) for column in columns}
    for child in table.children:
        plain[child.name] = [_plain(child, child_row) for child_row in row[child.name]]
    return plain


def _plain_value(column: Column, value: Any) -> Any:
    if column.kind in ("floats", "ints"):
        return hashlib.sha256(_numbers(column, value).tobytes()).hexdigest()
    if column.kind == "float":
        return float(value)
    if column.kind == "text":
        _encode(column, value)
        return value
    return int(value)


def _numbers(column: Column, values: Iterable[Any]) -> NDArray[Any]:
    try:
        array = np.array(list(values), dtype=_DTYPES[column.kind])
    except (OverflowError, TypeError, ValueError) as error:
        raise StoreError(f"column {column.name}: value does not fit {_DTYPES[column.kind]} ({error})") from error
    if column.kind in ("float", "floats"):
        # one bit pattern for NaN, so that equal records have equal bytes
        array[np.isnan(array)] = math.nan
    return array


def _encode(column: Column, text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        reason = f"text is not Unicode ({error}); decode it with errors='replace'"
        raise StoreError(f"column {column.name}: {reason}") from error


def _write_table(parent: Any, table: Table, rows: Sequence[Row]) -> Any:
    group = parent.create_group(table.name)
    group.attrs["description"] = table.description
    for column in table.columns:
        _write_column(group, column, [row[column.name] for row in rows])
    for child in table.children:
        child_rows = [child_row for row in rows for child_row in row[child.name]]
        owners = [index for index, row in enumerate(rows) for _ in row[child.name]]
        _write_column(_write_table(parent, child, child_rows), _owner_column(table), owners)
    return group


def _owner_column(table: Table) -> Column:
    return Column(name="row", kind="int", unit="index", description=f"index of the record in {table.name}")


def _write_column(group: Any, column: Column, values: Sequence[Any]) -> None:
    if column.kind not in _RAGGED:
        holder = _write_dataset(group, column.name, _numbers(column, values))
    else:
        holder = group.create_group(column.name)
        if column.kind == "text":
            texts = [_encode(column, value) for value in values]
            lengths = [len(text) for text in texts]
            flat = np.frombuffer(b"".join(texts), dtype="|u1")
        else:
            lists = [_numbers(column, value) for value in values]
            lengths = [len(items) for items in lists]
            flat = np.concatenate(lists) if lists else _numbers(column, [])
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype("<i8")
        _write_dataset(holder, "values", flat)
        _write_dataset(holder, "offsets", offsets)
    holder.attrs["unit"] = column.unit
    holder.attrs["description"] = column.description


def _write_dataset(group: Any, name: str, array: NDArray[Any]) -> Any:
    if not array.size:
        return group.create_dataset(name, data=array, track_times=False)
    chunk = min(array.size, _CHUNK_BYTES // array.itemsize)
    return group.create_dataset(name, data=array, chunks=(chunk,), fletcher32=True, track_times=False)


def _check_kind(file: Any, kind: str) -> None:
    found = file.attrs["kind"]
    if found != kind or file.attrs["program"] != _PROGRAM:
        raise StoreError(f"kind {found!r} of program {file.attrs['program']!r}, expected {kind!r} of {_PROGRAM!r}")
    version = file.attrs["schema_version"]
    if version not in map(str, range(1, SCHEMA_VERSION + 1)):
        raise StoreError(f"schema {version}, this program reads 1 to {SCHEMA_VERSION}; use the version that wrote it")


def _read_table(parent: Any, table: Table, *, limit: int) -> list[Row]:
    group = parent[table.name]
    version = int(group.file.attrs["schema_version"])
    columns = [(one.name, _read_column(group, one, limit)) for one in table.columns if one.since <= version]
    counts = {len(values) for _, values in columns}
    columns += [(one.name, [""] * len(columns[0][1])) for one in table.columns if one.since > version]
    if len(counts) != 1:
        raise StoreError(f"table {table.name}: columns have different lengths {sorted(counts)}")
    names = [name for name, _ in columns]
    rows = [dict(zip(names, values, strict=True)) for values in zip(*(values for _, values in columns), strict=True)]
    for child in table.children:
        for row in rows:
            row[child.name] = []
        owners = _read_column(parent[child.name], _owner_column(table), limit)
        for owner, child_row in zip(owners, _read_table(parent, child, limit=limit), strict=True):
            rows[owner][child.name].append(child_row)
    return rows


def _read_column(group: Any, column: Column, limit: int) -> list[Any]:
    holder = group[column.name]
    if holder.attrs["unit"] != column.unit:
        raise StoreError(f"column {column.name}: unit {holder.attrs['unit']!r}, expected {column.unit!r}")
    dtype = _DTYPES[column.kind]
    if column.kind not in _RAGGED:
        return list(_read_dataset(holder, dtype, limit).tolist())
    flat = _read_dataset(holder["values"], dtype, limit)
    offsets = _read_dataset(holder["offsets"], "<i8", limit).tolist()
    if offsets[0] != 0 or offsets[-1] != flat.size or offsets != sorted(offsets):
        raise StoreError(f"column {column.name}: offsets do not fit {flat.size} values")
    spans = list(pairwise(offsets))
    if column.kind == "text":
        data = flat.tobytes()
        return [data[start:end].decode("utf-8") for start, end in spans]
    return [tuple(flat[start:end].tolist()) for start, end in spans]


def _read_dataset(dataset: Any, dtype: str, limit: int) -> NDArray[Any]:
    if dataset.ndim != 1 or dataset.dtype != np.dtype(dtype) or dataset.size * dataset.dtype.itemsize > limit:
        found = f"{dataset.shape} {dataset.dtype}"
        raise StoreError(f"{dataset.name}: {found}, expected one axis of {dtype} no longer than the file")
    array: NDArray[Any] = dataset[...]
    return array


def _checked_digests(file: Any, table: Table, rows: Sequence[Row], limit: int) -> list[str]:
    stored: list[str] = _read_column(file[table.name], _DIGESTS, limit)
    for index, (digest, row) in enumerate(zip(stored, rows, strict=True)):
        if digest != record_digest(table, row):
            raise StoreError(f"table {table.name}, record {index}: sha256 does not match; the file is damaged")
    return stored


def _total(file: Any, digests: dict[str, list[str]]) -> str:
    """One digest over all attributes but itself, and over the digests of all records in their order."""
    attributes = {"/": _attributes(file)}
    file.visititems(lambda name, item: attributes.__setitem__(name, _attributes(item)))
    attributes["/"].pop(_TOTAL, None)
    return sha256_text(canonical_json({"attributes": attributes, "records": digests}))


def _attributes(item: Any) -> dict[str, str]:
    return {name: str(value) for name, value in item.attrs.items()}


def _unreadable(error: Exception) -> StoreError:
    detail = " ".join(str(error).split())[:200]
    return StoreError(f"not readable as HDF5 of this program ({type(error).__name__}: {detail})")
