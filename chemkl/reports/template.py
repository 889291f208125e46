"""The templates of the report, and how they are read."""

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


def template(name: str) -> Template:
    """A template of this package; what it is given is escaped, and what it lacks is an error."""
    environment = Environment(
        loader=PackageLoader("chemkl.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
