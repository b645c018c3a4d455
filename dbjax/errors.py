"""The one error that users of the library and its programs meet for bad input."""


class SettingError(ValueError):
    """A setting that cannot be used.

    Its text is one sentence for the user: what is wrong, what was found and what is allowed. It is
    raised at the edge, before anything is compiled or written.
    """


def require(condition: bool, name: str, found: object, allowed: str) -> None:
    """Refuse a setting unless `condition` holds.

    Args:
      condition: whether the setting can be used.
      name: the setting as the user writes it, such as ``partition.num_blocks``.
      found: the value that was given.
      allowed: what may stand there, such as ``1 to 12, the number of layers``.

    Raises:
      SettingError: `condition` does not hold.
    """
    if not condition:
        raise SettingError(f"{name} is {found!r}; allowed: {allowed}")
