"""Reads the values of OVF properties, and collects what is wrong with them."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from appliance.config.table import PROPERTY, SETTING_OF_PROPERTY
from appliance.errors import InvalidParameter
from appliance.provision.pem import certificates, private_key, public_key

T = TypeVar("T")


class Malformed(InvalidParameter):
    """All problems of the values, one line each: KEY: TEXT. The texts never contain a secret."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Reader:
    """The values by property key. `problems` grows with each value that is malformed."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self.problems: list[str] = []

    def text(self, key: str) -> str:
        """The value, or the default of the property, without blanks around. A secret keeps its blanks, unless it is PEM."""
        text = self._values.get(key, PROPERTY[key].default or "")
        return text if PROPERTY[key].secret and PROPERTY[key].content == "text" else text.strip()

    def read(self, key: str, parse: Callable[[str], T], otherwise: T) -> T:
        """The parsed value; `otherwise`, and a problem more, when `parse` raises ValueError or InvalidParameter."""
        try:
            return parse(self.text(key))
        except (ValueError, InvalidParameter) as error:
            self.problems.append(f"{key}: {'malformed' if PROPERTY[key].secret else error}")
            return otherwise

    def items(self, key: str, parse: Callable[[str], T]) -> list[T]:
        """The parsed items of a list; an empty list, and a problem more, when an item is malformed."""
        parts = [part.strip() for part in self.text(key).split(PROPERTY[key].separator) if part.strip()]
        return self.read(key, lambda _: [parse(part) for part in parts], [])

    def boolean(self, key: str) -> bool:
        """A property of the type boolean; its default when it is malformed."""
        return self.read(key, _boolean, PROPERTY[key].default == "true")

    def pem(self, key: str) -> str:
        """Certificates, a private key or a public key, as the content of the property says; "" when there are none."""
        parse = {"certificates": certificates, "private key": private_key, "public key": public_key}
        return self.read(key, parse[PROPERTY[key].content], "")

    def checked(self, key: str) -> str:
        """The text, if it passes the checks of its row in the table of settings; "" when it is malformed."""
        return self.read(key, lambda text: _checked(key, text) if text else "", "")

    def checked_items(self, key: str) -> list[str]:
        """The items of a list, if all of them pass the checks of its row; none when one is malformed."""
        return self.items(key, lambda item: _checked(key, item))

    def value(self, key: str) -> str | int | list[str] | None:
        """The value of a setting in vchd's configuration file; None when the property is empty or malformed."""
        row = SETTING_OF_PROPERTY[key]
        if PROPERTY[key].content != "text":
            return self.pem(key) or None
        if row.kind == "list":
            return self.checked_items(key) or None
        text = self.checked(key)
        return int(text) if text and row.kind == "number" and text.isdecimal() else text or None


def _checked(key: str, text: str) -> str:
    check = PROPERTY[key].check
    if check is not None:
        check(text)
    SETTING_OF_PROPERTY[key].value_of(text)
    return text


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(f"{text!r} is not true or false")
    return text.lower() == "true"
