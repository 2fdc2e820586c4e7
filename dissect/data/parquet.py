"""Columns of a parquet file, by way of pyarrow: identifiers as text, times as stamps, text or numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dissect.errors import DataError, why

EXACT = 2**53  # floats from here on skip whole numbers


def read_columns(path: Path, choose: Callable[[list[str]], Mapping[str, str]]) -> dict[str, Any]:
    """Columns of a parquet file, role -> pyarrow array; `choose` picks them from all names, role -> name.

    Raises DataError if it is no parquet file, or the package that reads it is missing.
    """
    try:
        import pyarrow as pa
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise no_parquet() from error
    try:
        with open(path, "rb") as opened, ParquetFile(opened) as file:
            names = choose(file.schema_arrow.names)
            table = file.read(columns=sorted(set(names.values())))
            return {role: _values(table.column(name), pa) for role, name in names.items()}
    # Errors of pyarrow for a damaged file.
    except (OSError, ValueError, LookupError, TypeError, ArithmeticError, MemoryError, pa.ArrowException) as error:
        reason = (str(why(error)) or repr(error)).splitlines()[0].rstrip(".")
        raise DataError(f"{path} cannot be read as parquet: {reason}.") from error


def _values(column: Any, pa: Any) -> Any:
    """A column as one array of values, not of references to them."""
    values = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    values = values.cast(values.type.value_type) if pa.types.is_dictionary(values.type) else values
    values.validate(full=True)
    return values


def identifiers(values: Any) -> tuple[np.ndarray, list[str | None]] | None:
    """(codes int32 [N], the identifier of each code); -1 is no value, None what is neither text nor a whole number.

    Whole numbers are written as such, whatever their type. None for a column of other things.
    """
    from pyarrow import types

    if types.is_null(values.type):
        return np.full(len(values), -1, np.int32), []
    if not (_is_text(values.type) or _is_number(values.type)):
        return None
    encoded = values.dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
    return codes, [_identifier(value) for value in encoded.dictionary.to_pylist()]


def _identifier(value: str | float | Decimal) -> str | None:
    """A value as text, "" if it is NaN; None if it is neither text nor a whole number."""
    if value != value:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and abs(value) >= EXACT:
        return None
    return str(int(value)) if value == int(value) else None


def times(values: Any) -> pd.Series | None:
    """Times as stamps in UTC, text or numbers; None for a column of other things."""
    import pyarrow as pa

    if pa.types.is_timestamp(values.type) or pa.types.is_date(values.type):
        stamps = values.cast(pa.timestamp("ms", getattr(values.type, "tz", None)), safe=False)
        return pd.Series(stamps.cast(pa.timestamp("ms", "UTC")).to_pandas())
    if _is_number(values.type):
        return pd.Series(values.cast(pa.float64(), safe=False).to_pandas())
    return pd.Series(values.to_pylist(), dtype=object) if _is_text(values.type) else None


def _is_text(kind: Any) -> bool:
    return str(kind) in ("string", "large_string", "string_view")


def _is_number(kind: Any) -> bool:
    from pyarrow import types

    return types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)


def no_parquet() -> DataError:
    return DataError("Parquet files need the package pyarrow.", "Install it: pip install pyarrow")
