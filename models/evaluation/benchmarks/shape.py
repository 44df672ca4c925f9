"""What a benchmark's file has to hold, said as schemas; the items themselves stay as the file has them."""

from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from models.data.finding import field_error

# From the beginning of a video.
Seconds = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]


def check_shape(schema: type[BaseModel], values: Any, where: str) -> None:
    """ValueError, naming `where` and the first wrong field, for values that are not of the schema."""
    try:
        schema.model_validate(values)
    except ValidationError as error:
        wrong = field_error(error)
        told = f"{wrong.field!r} is missing" if wrong.reason == "missing" else str(wrong)
        raise ValueError(f"{where}: {told}") from error


def check_object(values: Any, where: str) -> None:
    """ValueError, naming `where`, for what is no JSON object."""
    if not isinstance(values, dict):
        raise ValueError(f"{where}: must be an object ({values!r:.60})")
