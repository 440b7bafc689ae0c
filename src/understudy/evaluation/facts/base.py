"""The base class of all facts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from understudy.errors import UnderstudyError

Share = Annotated[float, Field(ge=0, le=1)]
Matrix = list[list[float]]


class Facts(BaseModel):
    """Immutable values that are validated once, when read. Unknown keys, as of a newer version, are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="constants")
    subject: ClassVar[str] = "evaluation"  # as named in errors

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Validate what `json.load` returned; the first missing or invalid value is named in an `UnderstudyError`."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise UnderstudyError(
                f"the {cls.subject} cannot be reported: {where}: {first['msg']}; delete evaluation.json, and write "
                "it again with: understudy resume FOLDER"
            ) from error
