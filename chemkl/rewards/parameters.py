"""Types that the parameters of several components share."""

from typing import Annotated

from pydantic import BeforeValidator, Field

OneOrMore = Annotated[
    list[str],
    BeforeValidator(lambda given: [given] if isinstance(given, str) else given),
    Field(min_length=1),
]
"""A list of strings that is not empty; one string alone stands for a list of one."""
