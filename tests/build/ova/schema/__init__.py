"""The schema of OVF's envelope (DMTF DSP0243 1.1.0) for libxml2's validator."""

from functools import cache
from pathlib import Path

from lxml import etree

OURS = Path(__file__).with_name("envelope.xsd")


@cache
def _read(schema: Path) -> etree.XMLSchema:
    return etree.XMLSchema(etree.parse(schema))


def faults(descriptor: bytes, schema: Path = OURS) -> list[str]:
    """The messages of libxml2's validator; none when the descriptor is valid."""
    validator = _read(schema)
    if validator.validate(etree.fromstring(descriptor, etree.XMLParser(resolve_entities=False, no_network=True))):
        return []
    return [error.message for error in validator.error_log]
