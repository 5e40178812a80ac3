"""How an attack says that it cannot work here."""


class AttackFailed(Exception):
    """An attack cannot work on this update or model; the message says why. It becomes a failed result."""
