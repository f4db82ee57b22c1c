"""Writes the JSON Schemas: `python -m models.schemas`."""

from models.schemas import write_all

write_all()
