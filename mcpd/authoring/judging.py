"""Whether an answer fits a question, of which only the wire form is left: a task's record has that, in any process.

Called by: `tasks`. Calls `content`, whose questions judge answers. Deliberately not: taking the answer.

Sources: MRT-8, TSK-6; the questions are those of `content` (`Elicit.request` and its like).
"""

from __future__ import annotations

from typing import Any

from mcpd.authoring.content import Elicit, Roots, Sample


def fits(request: dict[str, Any], answer: Any) -> bool:
    """Tell whether `answer` is one to `request`, a `{"method", "params"}` that `request()` of a question gave."""
    params = request["params"]
    if request["method"] == "roots/list":
        return Roots().answer(answer) is not None
    if request["method"] == "sampling/createMessage":
        return Sample("").answer(answer) is not None
    asked = Elicit(params["message"], schema=params.get("requestedSchema"), url=params.get("url"))
    return asked.answer(answer) is not None
