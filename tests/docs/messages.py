"""The messages of trouble in the source, as templates with ``…`` for what varies."""
import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
_VARIES = '…'
# Calls whose first argument is a message, by the name of what they are called on.
_NOTES = dict(add=('problems', 'findings', 'found'), append=('problems', ), error=('parser', ),
              warn=('findings', 'found', 'warnings'))
# Errors that stand in the brackets of a ConfigError only.
_INNER = ('UnpicklingError', )
# One word alone, such as the name of a function, tells a user nothing.
_SAYS_SOMETHING = re.compile(r'[A-Za-z]+ [A-Za-z]+|[A-Za-z]+(=…)?:')
_DIE = re.compile(r"""\bdie (["'])(.+?)\1""")
_SHELL_VARIABLE = re.compile(r'\$(\w+|\*|\{[^}]*\})')


def find_messages() -> dict[str, list[str]]:
    """Find every message of errors and warnings.

    Returns:
        dict[str, list[str]]: Where each stands, as ``path:line``, by its template.
    """
    sources = {path.relative_to(ROOT).as_posix(): path.read_text()
               for path in (*(ROOT / 'mmakd').rglob('*.py'), *(ROOT / 'tools').glob('*.py'))}
    found: dict[str, list[str]] = {}
    for template, place in [*python_messages(sources), *_shell_messages()]:
        if _SAYS_SOMETHING.search(template):
            places = found.setdefault(template, [])
            if place not in places:
                places.append(place)
    return found


def python_messages(sources: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Find what modules raise, note as problems and warnings, and log as such.

    Args:
        sources (dict[str, str]): The modules by path.

    Yields:
        tuple[str, str]: A template, and its place.
    """
    yield from _Package(sources).messages()


def _shell_messages() -> Iterator[tuple[str, str]]:
    for path in sorted((ROOT / 'tools').glob('*.sh')):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            for match in _DIE.finditer(line):
                yield _clean(_SHELL_VARIABLE.sub(_VARIES, match[2])), f'tools/{path.name}:{number}'


def _clean(text: str) -> str:
    # A problem of the very value begins with = or :, and gets its key in front.
    text = _VARIES + text if text[:1] in ('=', ':') else text
    text = re.sub('…+', _VARIES, ' '.join(text.split()))
    # Where a hint may follow.
    return re.sub(r'(?<=\w)…$', '', text)


class _Package:
    """Modules, and the functions that they call of each other to put a message together."""

    def __init__(self, sources: dict[str, str]) -> None:
        self.trees = {name: ast.parse(source) for name, source in sorted(sources.items())}
        self.parents = {child: node for tree in self.trees.values() for node in ast.walk(tree)
                        for child in ast.iter_child_nodes(node)}

    def messages(self) -> Iterator[tuple[str, str]]:
        """Give each template and its place."""
        for name, tree in self.trees.items():
            for node in ast.walk(tree):
                message = _message(node)
                for part in self.texts(message) if message else ():
                    for text in self.inside_callers(part):
                        yield _clean(text), f'{name}:{part.lineno}'

    def texts(self, node: ast.AST, seen: frozenset[ast.AST] = frozenset()) -> Iterator[ast.expr]:
        """Follow what is raised or noted to the texts that it may be."""
        if node in seen:
            return
        seen |= {node}
        parts: list[ast.expr] = []
        if isinstance(node, ast.IfExp):
            parts = [node.body, node.orelse]
        elif isinstance(node, ast.BoolOp):
            parts = node.values
        elif isinstance(node, (ast.List, ast.Tuple)):
            parts = node.elts
        elif isinstance(node, ast.ListComp):
            parts = [node.elt]
        elif isinstance(node, ast.Name):
            parts = self.assigned(node)
        elif isinstance(node, ast.Call) and self.called(node):
            parts = [part.value for part in ast.walk(self.called(node))
                     if isinstance(part, ast.Return) and part.value]
        elif isinstance(node, ast.BinOp) and self.text(node) is None:
            parts = [node.left, node.right]
        elif isinstance(node, ast.expr) and self.text(node) is not None:
            yield node
        for part in parts:
            yield from self.texts(part, seen)

    def text(self, node: ast.AST) -> str | None:
        """Give the template of a text; None for anything else."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return node.value
        if isinstance(node, ast.JoinedStr):
            return ''.join(self.text(part) or _VARIES for part in node.values)
        if isinstance(node, ast.FormattedValue):
            return self.text(node.value)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            sides = self.text(node.left), self.text(node.right)
            return None if sides == (None, None) else ''.join(side or _VARIES for side in sides)
        if isinstance(node, ast.Call) and getattr(node.func, 'attr', '') == 'join':
            between, parts = self.text(node.func.value), node.args[0]
            if between and isinstance(parts, ast.List):
                return between.join(self.text(part) or _VARIES for part in parts.elts)
        if isinstance(node, ast.Name):
            values = self.assigned(node)
            return self.text(values[0]) if len(values) == 1 else None
        return None

    def assigned(self, name: ast.Name) -> list[ast.expr]:
        """List what a variable of the function, or else of the module, gets."""
        scope: ast.AST | None = name
        while scope:
            scope = self.parents.get(scope)
            if isinstance(scope, ast.FunctionDef):
                arguments = [*scope.args.args, *scope.args.kwonlyargs]
                values = list(_values(scope.body, name.id))
                if values or name.id in [argument.arg for argument in arguments]:
                    return values
            elif isinstance(scope, ast.Module):
                return list(_values([part for part in scope.body
                                     if isinstance(part, ast.Assign)], name.id))
        return []

    def called(self, call: ast.Call) -> ast.FunctionDef | None:
        """Find the function that is called, in the same module or else a public one elsewhere."""
        name = getattr(call.func, 'id', '_')
        own = call
        while own in self.parents:
            own = self.parents[own]
        trees = [own, *(self.trees.values() if not name.startswith('_') else ())]
        return next((node for tree in trees for node in tree.body
                     if isinstance(node, ast.FunctionDef) and node.name == name), None)

    def inside_callers(self, node: ast.expr) -> Iterator[str]:
        """Give the template of a text; in ``_warn(message)`` that of each call."""
        scope: ast.AST | None = node
        while scope and not isinstance(scope, ast.FunctionDef):
            scope = self.parents.get(scope)
        text = self.text(node) or ''
        if not isinstance(scope, ast.FunctionDef) or scope.name != '_warn':
            yield text
            return
        for call in ast.walk(self.parents[scope]):
            if isinstance(call, ast.Call) and getattr(call.func, 'id', '') == '_warn':
                yield text.replace(_VARIES, self.text(call.args[0]) or _VARIES, 1)


def _message(node: ast.AST) -> ast.expr | None:
    """Find the message in a statement or call that raises, notes or logs one."""
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
        name = _name(node.exc.func)
        return node.exc.args[0] if name.endswith('Error') and name not in _INNER else None
    if isinstance(node, ast.AugAssign) and getattr(node.target, 'attr', '') == 'problems':
        return node.value
    if not isinstance(node, ast.Call) or not node.args:
        return None
    if _name(node.func) == 'print_log':
        levels = [getattr(keyword.value, 'attr', '') for keyword in node.keywords
                  if keyword.arg == 'level']
        return node.args[0] if {'WARNING', 'ERROR'} & set(levels) else None
    if isinstance(node.func, ast.Attribute) and _name(node.func.value) in _NOTES.get(
            node.func.attr, ()):
        return node.args[0]
    return None


def _name(node: ast.AST) -> str:
    return getattr(node, 'id', getattr(node, 'attr', ''))


def _values(body: list[ast.stmt], name: str) -> Iterator[ast.expr]:
    for node in (part for statement in body for part in ast.walk(statement)):
        if isinstance(node, (ast.Assign, ast.AugAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(getattr(target, 'id', '') == name for target in targets):
                yield node.value
