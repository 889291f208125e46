"""How to install the packages that not every user needs."""

from importlib.metadata import PackageNotFoundError, requires


def install(extra: str) -> str:
    """The command that installs what an extra of pyproject.toml brings, for a message.

    It names the packages, not the extra: chemkl is in no index that pip could look it up in.

    Args:
        extra: its name, for example fcd.

    Returns:
        For example ``pip install 'fcd_torch>=1.0.7'``.
    """
    try:
        asked = requires("chemkl") or []
    except PackageNotFoundError:  # run from a source tree that was never installed
        asked = []
    parts = [each.partition(";") for each in asked]
    names = [name.strip() for name, _, when in parts if f'extra == "{extra}"' in when]
    return f"pip install {' '.join(map(repr, names))}" if names else f"pip install -e '.[{extra}]'"
