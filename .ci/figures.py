"""Print how large the code is, for this commit and the one before.

Usage: ``python .ci/figures.py [REVISION ...]``; by default HEAD and its parent. A shallow
clone has no parent: then the figures of HEAD stand alone.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], capture_output=True, check=True, encoding="utf-8"
    ).stdout


def _sources(revision: str, folder: str) -> Iterator[str]:
    """Yield the text of every Python file below a folder."""
    names = _git("ls-tree", "-r", "--name-only", revision, "--", folder).splitlines()
    for name in names:
        if name.endswith(".py"):
            yield _git("show", f"{revision}:{name}")


def _functions(tree: ast.Module) -> Iterator[int]:
    """Yield the length of every function in lines, docstring and all."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.end_lineno - node.lineno + 1


def _lines_of_code(text: str, tree: ast.Module) -> int:
    """Count the lines that hold code: no blank line, comment or text under a name."""
    prose: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            prose.update(range(node.lineno, node.end_lineno + 1))
    lines = enumerate(text.splitlines(), start=1)
    return sum(
        number not in prose and bool(line.strip()) and not line.lstrip().startswith("#")
        for number, line in lines
    )


def figures(revision: str) -> dict[str, float]:
    """Measure one commit."""
    package, tests = list(_sources(revision, "chemkl")), list(_sources(revision, "tests"))
    trees = [ast.parse(text) for text in package]
    lengths = [length for tree in trees for length in _functions(tree)]
    code = sum(map(_lines_of_code, package, trees))
    lines = sum(text.count("\n") for text in package)
    raises = sum(isinstance(node, ast.Raise) for tree in trees for node in ast.walk(tree))
    return {
        "package, lines": lines,
        "package, files": len(package),
        "lines a file": lines / max(1, len(package)),
        "tests, lines": sum(text.count("\n") for text in tests),
        "lines a function": sum(lengths) / max(1, len(lengths)),
        "raise a 1,000 of code": 1000 * raises / max(1, code),
        "README, bytes": len(_git("show", f"{revision}:README.md").encode()),
    }


def main(revisions: list[str]) -> None:
    """Print one column a commit."""
    if not revisions:
        has_parent = subprocess.run(
            ["git", "rev-parse", "-q", "--verify", "HEAD^"], capture_output=True, check=False
        )
        revisions = ["HEAD"] if has_parent.returncode else ["HEAD^", "HEAD"]
    measured = [figures(revision) for revision in revisions]
    print(" " * 24, *(f"{revision:>10}" for revision in revisions))
    for name in measured[0]:
        print(f"{name:24}", *(f"{column[name]:10,.5g}" for column in measured))


if __name__ == "__main__":
    main(sys.argv[1:])
