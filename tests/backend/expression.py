"""CEL, as far as compiled packages use it: conditions, and the selection from an item of a loop."""

import json
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tests.backend.values import BackendError, NotPlayedError, as_text, kind

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+\.\d+|\d+)|(?P<text>'[^']*'|\"[^\"]*\")|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<sign>==|!=|<=|>=|&&|\|\||[-<>!()\[\].]))"
)
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def condition(parameters: Mapping[str, Any], expression: str) -> bool:
    """Whether a task is triggered by its inputs: expression/expression.go:134-162.

    Raises:
        BackendError: if the expression cannot be evaluated, or is neither true nor false.
    """
    value = _Parser(expression, {"inputs": {"parameter_values": parameters}}).value()
    if not isinstance(value, bool):
        raise BackendError(f"evaluation error: return type is not bool, got {value}")
    return value


def select(value: Any, expression: str) -> Any:
    """A part of a value, as `parseJson(string_value)["key"]`: expression/expression.go:75-126."""
    return _Parser(expression, {"string_value": as_text(value)}).value()


def _same(left: Any, right: Any) -> bool:
    """CEL's equality: values of two kinds differ, and are not refused."""
    return kind(left) == kind(right) and left == right


def _number(value: Any) -> float:
    """A number of a number or its text; CEL refuses booleans and null."""
    if kind(value) not in {"number", "string"}:
        raise BackendError("evaluation error: no such overload")
    try:
        return float(value)
    except ValueError:
        raise BackendError(f"evaluation error: strconv: parsing {json.dumps(value)}: invalid syntax") from None


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "int": lambda value: int(_number(value)),
    "double": _number,
    "string": as_text,
    "parseJson": json.loads,  # expression/expression.go:165-179
}


class _Parser:
    """A recursive descent over the tokens that evaluates as it goes."""

    def __init__(self, expression: str, variables: Mapping[str, Any]) -> None:
        self._variables = variables
        self._tokens = [*_tokens(expression), ("end", "")]

    def value(self) -> Any:
        result = self._or()
        self._expect("")
        return result

    def _or(self) -> Any:
        result = self._and()
        while self._take("||"):
            other = self._and()
            result = result or other
        return result

    def _and(self) -> Any:
        result = self._comparison()
        while self._take("&&"):
            other = self._comparison()
            result = result and other
        return result

    def _comparison(self) -> Any:
        left = self._unary()
        if self._take("=="):
            return _same(left, self._unary())
        if self._take("!="):
            return not _same(left, self._unary())
        for sign, compare in _COMPARE.items():
            if self._take(sign):
                right = self._unary()
                if kind(left) != kind(right) or kind(left) not in {"number", "string", "bool"}:
                    raise BackendError("evaluation error: no such overload")
                return compare(left, right)
        return left

    def _unary(self) -> Any:
        if self._take("!"):
            value = self._unary()
            if not isinstance(value, bool):
                raise BackendError("evaluation error: no such overload")
            return not value
        if self._take("-"):
            return -self._unary()
        return self._member()

    def _member(self) -> Any:
        value = self._primary()
        while True:
            if self._take("["):
                key = self._or()
                self._expect("]")
                value = _entry(value, key)
            elif self._take("."):
                value = _entry(value, self._next())
            else:
                return value

    def _primary(self) -> Any:
        group, text = self._tokens[0]
        if self._take("("):
            value = self._or()
            self._expect(")")
            return value
        self._next()
        if group == "number":
            return float(text) if "." in text else int(text)
        if group == "text":
            return text[1:-1]
        if text in {"true", "false", "null"}:
            return {"true": True, "false": False, "null": None}[text]
        if self._take("("):
            argument = self._or()
            self._expect(")")
            if text not in FUNCTIONS:
                raise NotPlayedError(f"CEL's function {text}")
            return FUNCTIONS[text](argument)
        if text not in self._variables:
            raise BackendError(f"undeclared reference to '{text}'")
        return self._variables[text]

    def _take(self, sign: str) -> bool:
        if self._tokens[0] == ("sign", sign):
            self._tokens.pop(0)
            return True
        return False

    def _next(self) -> str:
        return self._tokens.pop(0)[1]

    def _expect(self, text: str) -> None:
        if self._tokens[0][1] != text:
            raise BackendError(f"Syntax error: found {self._tokens[0][1]!r}, expected {text!r}")
        self._tokens.pop(0)


def _tokens(expression: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(expression.rstrip()):
        match = _TOKEN.match(expression, at)
        if match is None:
            raise BackendError(f"Syntax error: token recognition error at: {expression[at:]!r}")
        yield str(match.lastgroup), match[str(match.lastgroup)]
        at = match.end()


def _entry(value: Any, key: Any) -> Any:
    try:
        return value[key]
    except (KeyError, IndexError):
        raise BackendError(f"evaluation error: no such key: {key}") from None
