"""The names of what messages enumerate, also of what a newer version has added."""

from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper


def enum_name(enum: EnumTypeWrapper, number: int) -> str:
    """Its number where this version knows no name for it."""
    return enum.Name(number) if number in enum.values() else str(number)
