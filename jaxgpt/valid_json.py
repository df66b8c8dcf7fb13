"""JSON that every reader takes."""

import json
import math
from typing import Any


def dumps(content: Any, **options: Any) -> str:
    """`json.dumps`, with null for what is no finite number, as JSON knows no other."""
    return json.dumps(_finite(content), allow_nan=False, **options)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
