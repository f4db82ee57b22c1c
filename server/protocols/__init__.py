"""What callers speak: one module a protocol, from bytes to records and back to bytes."""
